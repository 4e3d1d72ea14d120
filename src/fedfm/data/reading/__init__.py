"""Reading: from files and objects to (line, row) pairs, every fault with its place, nothing left out uncounted.

The engine is Python's own json and csv (C parsers) with our checks around them, chosen by the cases: DuckDB 2.0 and
pyarrow stop at the first fault, name a byte or none, take `1` and `"x"` of one JSON column to text or refuse it, rename
or drop doubled headers, and start threads before the fork; into Python rows they were at most 15 % faster. Parquet
(pyarrow) and .xlsx (openpyxl) are read with the extra `data`.
"""
