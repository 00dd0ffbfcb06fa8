"""Programs that measure Headrace from outside; none of them is part of the wheel."""
