"""``python -m ssm_lab``, for where the script ``ssm`` is not on the path."""

from ssm_lab.main import main

main()
