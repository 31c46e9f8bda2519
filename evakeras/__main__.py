"""The command line: `python -m evakeras doctor`, `copy` and `assignment`."""

import os
import sys

try:
    import argparse

    from evakeras import __version__, _assignment, _copy, _doctor
except Exception:  # most likely a file such as random.py beside us, which Python imports in place of its own
    hiding = [f"{name}.py" for name in sorted(sys.stdlib_module_names) if os.path.isfile(f"{name}.py")]
    if not hiding:
        raise
    sys.exit(f"PROBLEM  {', '.join(hiding)} in this folder hides a library of Python. Give it another name")


def main(arguments=None):
    """Run one command and return the exit code: 0 where all went well."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter gets a question mark
    parser, copy_parser = _parsers()
    options = parser.parse_args(arguments)
    try:
        code = _run(parser, copy_parser, options)
        sys.stdout.flush()
    except _copy.Refused as error:
        print(f"evakeras {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the output went to something like `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return code


def _run(parser, copy_parser, options):
    if options.command == "doctor":
        return _doctor.doctor()
    if options.command == "copy":
        return _copy_command(copy_parser, options)
    if options.command == "assignment":
        return _assignment_command(options)
    parser.print_help()
    return 0


def _parsers():
    parser = argparse.ArgumentParser(
        prog="python -m evakeras", description="What the course evakeras does outside its notebooks."
    )
    parser.add_argument("--version", action="version", version=f"evakeras {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    commands.add_parser("doctor", help="look whether this computer is ready, and say what to do if it is not")
    copy = commands.add_parser("copy", help="copy helper files into a folder of yours")
    copy.add_argument("names", nargs="*", metavar="NAME", help="a helper, such as data or data.py")
    copy.add_argument("--to", metavar="DIR", help="the folder to copy to; made if the one above exists")
    copy.add_argument("--force", action="store_true", help="replace files that are there")
    copy.add_argument("--list", action="store_true", help="say what there is to copy")
    make = commands.add_parser("assignment", help="begin the assignment on L1 and L2 in a new folder")
    make.add_argument("folder", metavar="DIR", help="the folder to make")
    make.add_argument("--name", metavar="NAME", help="your name, for README.md and the notebook")
    return parser, copy


def _copy_command(parser, options):
    if options.list:
        for name, file in _copy.helpers().items():
            print(f"{name + '.py':16} {_copy.summary(file)}")
        return 0
    if not options.names or not options.to:
        parser.error('say which files and where to: copy data plots --to "my folder" (--list: what there is)')
    for target in _copy.copy_files(options.names, options.to, options.force):
        print(f"{target}: {_copy.needs_in_words(target)}")
    return 0


def _assignment_command(options):
    folder = _assignment.create(options.folder, options.name)
    commands = {
        "train.py --quick": "tries everything, in about half a minute",
        "train.py": "the real thing: four trainings of forty epochs",
        "test.py": "tells the test accuracy of the trained models",
    }
    print(f"{folder} is ready. Begin with its README.md, or at once:")
    for command, what in commands.items():
        file, *rest = command.split()
        path = str(folder / file)
        print("  " + " ".join(["python", f'"{path}"' if " " in path else path, *rest]) + f"   {what}")
    if options.name is None:
        print("The author is YOUR NAME: write yours into README.md and assignment.ipynb.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
