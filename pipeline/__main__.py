"""`python -m vaefill`: the commands."""

from vaefill.cli import main

if __name__ == "__main__":
    main(prog_name="vaefill")
