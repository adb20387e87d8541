"""One's own series with real time stamps, from a table (spec, table, times, series, data, task)."""
