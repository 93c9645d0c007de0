"""Reports on finished and running runs: figures, tables and one page that answer why two runs differ."""
