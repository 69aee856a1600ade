"""Datasets looked through before anything is paid for: every row, as a model would see it."""

from omnimix.data.check.rows import Checked, Checker, Fault
from omnimix.data.check.survey import Survey, survey

__all__ = ["Checked", "Checker", "Fault", "Survey", "survey"]
