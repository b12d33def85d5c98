"""What a run did, as one self-contained HTML page, Markdown and JSON. No torch here."""
