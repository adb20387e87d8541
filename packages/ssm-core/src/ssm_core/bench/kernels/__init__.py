"""The operations on this machine, beside other implementations if they are installed."""
