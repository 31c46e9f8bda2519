"""evakeras: the helpers that the course's notebooks share.

Each module is one file that works alone; `from evakeras import data` imports only that one.
Importing the package itself loads nothing heavy.
"""

__version__ = "0.1.0"
