"""One self-contained HTML page about a run: curves, episodes, the credit of every token."""

from stepopsd_rllib.report.inspect_page.page import page_of, write_page

__all__ = ["page_of", "write_page"]
