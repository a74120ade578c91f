"""The chain, in plain values: may this request pass, to whom, with whose credential."""
