"""What every chapter needs and none owns: nested dicts of arrays, dtypes, names, checks, files."""
