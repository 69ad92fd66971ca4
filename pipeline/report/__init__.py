"""The report: tables in, a page, figures, a card and summary.json out.

`collect` turns the tables of a run into `Facts`; everything that is shown is read off them, so that
a number on the page, on the card, in summary.json and in the terminal is the same number.
"""
