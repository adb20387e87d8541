"""What tasks on series of numbers have in common: rows, scale, gaps, missing values, and what is asked for."""
