"""Reports for people: records and documents in, one self-contained HTML file out; never a tensor."""
