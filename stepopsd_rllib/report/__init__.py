"""Tables and pictures, made from run files only, so that any run can be shown again."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepopsd_rllib.report.run import Run

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    """`Run`, imported when it is asked for: its pictures take a second, and training has none."""
    if name == "Run":
        from stepopsd_rllib.report.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
