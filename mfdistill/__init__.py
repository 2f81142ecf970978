"""mfdistill: conditional-flow-matching speech teachers into one- to three-step MeanFlow
students.
"""

__version__ = "0.1.0"
