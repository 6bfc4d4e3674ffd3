"""ALFWorld: household text games, official or generated, on a fast engine or the real one."""
