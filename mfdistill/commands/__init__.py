"""The commands, one file each: a frozen dataclass of its options (without torch) and
``run(command)``, which imports what it needs.
"""
