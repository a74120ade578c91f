"""`python -m extauthz` is `extauthz`."""

from extauthz.cli.main import main

if __name__ == "__main__":
    main()
