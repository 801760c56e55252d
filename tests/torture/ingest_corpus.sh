#!/bin/bash
# The whole of the evaluation data in one run: PDFs damaged and sound, documents of many kinds, archives, bombs.
#
#   tests/torture/ingest_corpus.sh PROGRAM       needs DSA_DATA; TAP, and figures as comments
#
# The parent lives; nothing is written outside the store; every file has exactly one row, and every row of a member
# belongs to an archive's; a second run finds nothing to do; the whole can be copied, killed and taken up again.
program=$(realpath "$1") # the tests run elsewhere
if [ -z "$DSA_DATA" ] || [ ! -d "$DSA_DATA" ]; then
    echo "1..0 # SKIP DSA_DATA is not set"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 99
export TMPDIR=$scratch/tmp HOME=$scratch/home
mkdir tmp home
number=0
failed=0
check() {
    number=$((number + 1))
    if [ "$2" = "$3" ]; then echo "ok $number - $1"; else echo "not ok $number - $1"; echo "# is '$2', expected '$3'"; failed=1; fi
}
query() {
    /usr/bin/python3 -c '
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1] + "/corpus.db").execute(sys.argv[2]):
    print("|".join("" if v is None else str(v) for v in row))' "$@"
}

folders=()
for part in pdf-robust pdf-plain pdf-groundtruth e2e docs-groundtruth docs-misc archives; do
    [ -d "$DSA_DATA/$part" ] && folders+=("$DSA_DATA/$part")
done
touch -d '-2 seconds' mark
"$program" --store store --json "${folders[@]}" >report 2>errors
check "the run ends with 2: some documents cannot be read" $? 2
check "nothing is written outside the store" \
    "$(find . -newer mark -not -path './store*' -not -name . -not -name report -not -name errors -not -name tmp -not -name home | sort)" ""
check "nothing is written beside the data" "$(find "${folders[@]}" -newer mark | head -3)" ""
find -L "${folders[@]}" -type f -not -path '*/.*' -print >/dev/null # fails loudly on loops
find "${folders[@]}" -type f -not -path '*/.*' | wc -l >files
check "every file has exactly one row" "$(query store "select count(*) from documents where member = ''")" "$(cat files)"
check "every member's archive has a row" "$(query store "select count(*) from documents m where member != ''
    and not exists (select 1 from documents a where a.path = m.path and a.member = '')")" 0
check "no row of an unknown kind" "$(query store "select count(*) from documents where status not between 0 and 4")" 0
check "what failed, was cut or skipped says why" "$(query store "select count(*) from documents where status in (1, 2, 3)
    and (problem_count = 0 or error = '')")" 0
check "a line of the report for each row" "$(($(wc -l <report) - 1))" "$(query store "select count(*) from documents")"
check "the database is sound" "$(query store "pragma integrity_check")" ok
check "no reader was killed by its jail" "$(query store "select count(*) from problems where code = 'jail'")" 0
"$program" --store store --json "${folders[@]}" >again 2>&1
check "a second run has nothing to do" "$(tail -1 again | sed 's/.*"documents":\([0-9]*\).*"unchanged":\([0-9]*\).*/\1 \2/')" \
    "0 $(cat files)"

for seconds in 0.3 0.9 1.7; do
    "$program" --store killed "${folders[@]}" >/dev/null 2>&1 &
    sleep $seconds
    kill -KILL $! 2>/dev/null
    wait $! 2>/dev/null
done
"$program" --store killed "${folders[@]}" >/dev/null 2>&1
check "killed three times and taken up again, it is the same" \
    "$(query killed "select count(*), sum(page_count) from documents where status < 2")|$(query killed "select count(*) from documents")" \
    "$(query store "select count(*), sum(page_count) from documents where status < 2")|$(query store "select count(*) from documents")"
echo "# $(tail -1 report)"
echo "# rows by status: $(query store "select case status when 0 then 'ok' when 1 then 'partial' when 2 then 'failed' when 3 then 'skipped' else 'duplicate' end, count(*) from documents group by status" | tr '\n' ' ')"
echo "# problems: $(query store "select code, count(*) from problems group by 1 order by 2 desc" | tr '\n' ' ')"
echo "# corpus.db $(stat -c %s store/corpus.db) bytes"
echo "1..$number"
exit $failed
