"""Studies: many runs that vary along axes, tested under many conditions, and what they say together.

:mod:`definition` reads the file, :mod:`plan` makes runs of it, :mod:`execution` does them in :mod:`child` processes,
:mod:`comparisons` pairs them, :mod:`analysis` reads the results and :mod:`report` writes them.
"""
