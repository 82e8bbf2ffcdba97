-- Segments whose books do not balance: a line or a ticker that is in none of the columns, or in
-- two. Reads: books (one row per segment), manifest (segment, lines).
select
    books.segment,
    books.lines,
    manifest.lines as manifest_lines,
    books.messages + books.other + books.quarantined_lines as counted_lines,
    books.tickers,
    books.ticks + books.duplicates + books.quarantined_tickers as counted_tickers
from manifest
full join books on manifest.segment = books.segment
where
    manifest.lines is distinct from books.lines
    or books.lines != books.messages + books.other + books.quarantined_lines
    or books.tickers != books.ticks + books.duplicates + books.quarantined_tickers
    or books.duplicates < 0
order by books.segment
