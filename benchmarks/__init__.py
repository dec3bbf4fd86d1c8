"""treadle against its peers: one registry of cases feeds the timings here and the gates in tests/benchmarks/.

`registry.py` says what a case is, `suites/` lists them, `peers/` has what they are measured against. `gates.py` and
`timing.py` compare and time; `report.py` and `page.py` show the results.
"""
