"""`python -m tailor`, and what `accelerate launch -m tailor` starts."""

from tailor.cli import main

if __name__ == "__main__":
    main()
