"""The comparison of Ladybug with its peers; README.md says how it is measured, run.py and ab.py are the doors."""
