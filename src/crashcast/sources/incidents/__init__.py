"""`crashcast incidents`: tickets from the systems that teams already run, merged into one table of incidents.

`api` asks a system, `exports` reads files; both give records as the system writes them. `tickets` understands a record,
`outages` says which tickets are one incident, `collect` does it all and writes data/raw.
"""
