"""Files of the course evakeras, unchanged; each works alone. MIT licence, see LICENSE."""
