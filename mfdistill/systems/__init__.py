"""Other programs' checkpoints: one file per system, and the table ``table.SYSTEMS``. Nothing in a
file is ever executed.
"""
