"""What each command of `stepopsd` does, one a file; `stepopsd_cli.py` reads the command line."""
