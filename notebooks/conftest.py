"""Settings of nbval, which runs every notebook as a test."""


def pytest_itemcollected(item):
    """Leave stderr out of the comparison: what TensorFlow logs differs from machine to machine."""
    skipped = getattr(item.parent, "skip_compare", None)
    if skipped is not None and "stderr" not in skipped:
        item.parent.skip_compare = (*skipped, "stderr")
