"""Tables and pictures, made from run files only, so that any run can be shown again."""
