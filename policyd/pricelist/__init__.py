"""What `policyd prices` tells: which prices there are, how one came about, and what changed between two tables.

price_list.py   the prices of a process: its table, and the operator's own before it
rates.py        rates as people read them
sellers.py      who sells a model
listing.py      one line a model
explaining.py   everything about one model's price
differences.py  what changed between two tables

Each report is a dataclass that msgspec can encode, and text.
"""

from policyd.pricelist.differences import differences, differences_text
from policyd.pricelist.explaining import explain, explanation_text
from policyd.pricelist.listing import listing, listing_text
from policyd.pricelist.price_list import PriceList, open_price_list
from policyd.pricelist.rates import to_json

__all__ = [
    "PriceList",
    "differences",
    "differences_text",
    "explain",
    "explanation_text",
    "listing",
    "listing_text",
    "open_price_list",
    "to_json",
]
