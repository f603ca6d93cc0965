"""``python -m splitplan …`` is ``splitplan …``; workers are started this way, with the interpreter that runs."""

from splitplan.cli import main

if __name__ == "__main__":
    main()
