"""Tables and pictures, made from run files only, so that any run can be shown again."""

from stepopsd_rllib.report.run import Run

__all__ = ["Run"]
