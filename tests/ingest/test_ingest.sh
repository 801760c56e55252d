#!/bin/bash
# dsa-ingest from the outside: test_ingest.sh PROGRAM [NAME]; each test has a folder of its own. TAP.
program=$(realpath "$1")
only=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'chmod -R u+rwX "$scratch"; rm -rf "$scratch"' EXIT
number=0
failed=0
export LC_ALL=C.UTF-8

fixture() { /usr/bin/python3 "$here/fixtures.py" "$@"; }
ingest() { "$program" --store "$work/store" "$@"; }
rows() { fixture query "$work/store" "$1"; }
fail() { echo "# $*"; return 1; }
# equal WHAT ACTUAL EXPECTED
equal() { [ "$2" = "$3" ] || fail "$1 is '$2', expected '$3'"; }
# code EXPECTED COMMAND...
code() {
    local expected=$1 got
    shift
    "$@" >"$work/out" 2>"$work/err"
    got=$?
    [ $got = "$expected" ] || { sed 's/^/# /' "$work/err"; fail "'$*' ended with $got, expected $expected"; }
}
run_test() {
    [ -z "$only" ] || [[ $1 == *"$only"* ]] || return
    number=$((number + 1))
    work=$scratch/$1
    mkdir -p "$work/docs"
    if (cd "$work" && "test_$1"); then echo "ok $number - $1"; else echo "not ok $number - $1"; failed=1; fi
}

make_docs() {
    fixture pdf docs/report.pdf 5
    fixture text docs/notes.txt harbour 40
    printf '<html><head><title>A page</title></head><body><h1>Ships</h1><p>They sail.</p></body></html>' >docs/page.html
    printf '# Rules\n\nFirst rule.\n\n- one\n- two\n' >docs/rules.md
    mkdir -p docs/deep/deeper
    fixture text docs/deep/deeper/end.txt well 3
}

test_folder() {
    make_docs
    code 0 ingest docs || return 1
    equal rows "$(rows "select count(*), sum(status) from documents")" "5|0" &&
    equal pages "$(rows "select page_count from documents where path like '%report.pdf'")" 5 &&
    equal type "$(rows "select media_type from documents where path like '%report.pdf'")" application/pdf &&
    equal heading "$(rows "select heading from chunks c join documents d on d.id = c.document_id
        where path like '%report.pdf' order by ordinal limit 1")" "Chapter 1 of the book" &&
    equal aside "$(rows "select cast(aside as text) from pages p join documents d on d.id = p.document_id
        where path like '%report.pdf' and number = 2" | tr '\n' '/')" "Running header of the report/Page 2 of 5/" &&
    equal "pages with rectangles" "$(rows "select count(*) from page_rects where length(rects) > 50")" 5 &&
    fixture verify store >verified && [ "$(cat verified)" -ge 12 ]
}

test_again_is_unchanged() {
    make_docs
    code 0 ingest docs && before=$(rows "select * from documents") &&
    code 0 ingest docs && equal rows "$(rows "select * from documents")" "$before" &&
    grep -q '5 unchanged' out || return 1
    touch -d 2001-01-01 docs/*.txt # another time, the same bytes
    code 0 ingest docs && grep -q '5 unchanged' out
}

test_changed_is_replaced() {
    make_docs
    code 0 ingest docs || return 1
    fixture text docs/notes.txt lighthouse 10
    code 0 ingest docs && equal rows "$(rows "select count(*) from documents")" 5 &&
    equal found "$(rows "select count(*) from chunks_fts where chunks_fts match 'harbour'")" 0 &&
    equal found "$(rows "select count(*) > 0 from chunks_fts where chunks_fts match 'lighthouse'")" 1 &&
    fixture verify store >/dev/null
}

test_duplicates_and_their_heirs() {
    make_docs
    cp docs/report.pdf docs/z-copy.pdf
    cp docs/report.pdf docs/z-third.pdf
    code 0 ingest --jobs 1 docs &&
    equal copy "$(rows "select status, page_count, media_type from documents where path like '%z-copy.pdf'")" \
        "4|5|application/pdf" || return 1
    rm docs/report.pdf
    code 0 ingest --prune docs &&
    equal rows "$(rows "select count(*) from documents")" 6 &&
    equal copy "$(rows "select status from documents where path like '%z-copy.pdf'")" 0 &&
    equal third "$(rows "select status from documents where path like '%z-third.pdf'")" 4 || return 1
    fixture text docs/z-copy.pdf anchor 3 # what others are copies of changes
    code 0 ingest docs/z-copy.pdf &&
    equal third "$(rows "select status from documents where path like '%z-third.pdf'")" 0 &&
    fixture verify store >/dev/null
}

test_equal_archives_have_members_each() {
    make_docs
    tar cf a.tar docs
    cp a.tar b.tar
    code 0 ingest a.tar b.tar && equal rows "$(rows "select count(*), sum(status = 4) from documents")" "12|5" || return 1
    mkdir kept
    mv b.tar kept
    code 0 ingest kept && rm a.tar && fixture text other.txt other 3 && code 0 ingest --prune . &&
    equal rows "$(rows "select count(*), sum(status = 0) from documents where path like '%kept/b.tar'")" "6|6" &&
    fixture verify store >/dev/null
}

test_prune() {
    make_docs
    mkdir other empty
    fixture text other/kept.txt oak 3
    code 0 ingest docs other && rm -r docs/deep docs/rules.md other/kept.txt || return 1
    code 66 ingest --prune empty && code 66 ingest --prune missing && code 64 ingest --prune &&
    equal rows "$(rows "select count(*) from documents")" 6 &&
    code 0 ingest --prune --dry-run docs && grep -q 'would-remove.*rules.md' out &&
    equal rows "$(rows "select count(*) from documents")" 6 &&
    code 0 ingest docs && equal rows "$(rows "select count(*) from documents")" 6 &&
    code 0 ingest --prune docs && grep -q '2 removed' out &&
    equal rows "$(rows "select count(*) from documents")" 4 &&
    equal "the other root's" "$(rows "select count(*) from documents where path like '%kept.txt'")" 1
}

test_archives_nest() {
    make_docs
    (cd docs && tar cf ../inner.tar deep page.html)
    /usr/bin/python3 -m zipfile -c outer.zip inner.tar docs/notes.txt docs/report.pdf
    code 0 ingest outer.zip &&
    equal members "$(rows "select member, status from documents order by member" | tr '\n' ' ')" \
        "|0 inner.tar|0 inner.tar//deep/deeper/end.txt|0 inner.tar//page.html|0 notes.txt|0 report.pdf|0 " &&
    code 0 ingest outer.zip && grep -q '1 unchanged' out || return 1
    rm outer.zip
    /usr/bin/python3 -m zipfile -c outer.zip inner.tar docs/report.pdf
    code 0 ingest outer.zip &&
    equal members "$(rows "select member from documents order by member" | tr '\n' ' ')" \
        " inner.tar inner.tar//deep/deeper/end.txt inner.tar//page.html report.pdf " || return 1
    rm outer.zip
    /usr/bin/python3 -m zipfile -c outer.zip docs/report.pdf
    code 0 ingest outer.zip &&
    equal members "$(rows "select member from documents order by member" | tr '\n' ' ')" " report.pdf " &&
    fixture verify store >/dev/null
}

test_a_pipe_and_a_file_give_the_same_members() {
    make_docs
    tar cf docs.tar docs
    /usr/bin/python3 -m zipfile -c docs.zip docs
    for kind in tar zip; do
        code 0 "$program" --store file.$kind docs.$kind && code 0 "$program" --store pipe.$kind - <docs.$kind || return 1
        (cat docs.$kind; sleep 0.2) | "$program" --store slow.$kind - >/dev/null || return 1
        for store in pipe slow; do
            equal $kind "$(fixture query $store.$kind "select member, status, sha256, chunk_count from documents order by 1")" \
                "$(fixture query file.$kind "select member, status, sha256, chunk_count from documents order by 1")" || return 1
            equal path "$(fixture query $store.$kind "select distinct path from documents")" \
                "stdin:$(sha256sum <docs.$kind | cut -c 1-64)" || return 1
        done
    done
}

test_standard_input() {
    make_docs
    code 0 ingest - <docs/report.pdf &&
    equal path "$(rows "select path from documents")" "stdin:$(sha256sum <docs/report.pdf | cut -c 1-64)" &&
    code 0 ingest - <docs/report.pdf && grep -q '1 unchanged' out &&
    cat docs/rules.md | code 0 ingest --name mine - &&
    equal row "$(rows "select path, status from documents where path = 'mine'")" "mine|0" &&
    code 0 ingest --name mine - <docs/notes.txt &&
    equal rows "$(rows "select count(*) from documents")" 2 &&
    code 0 ingest - </dev/null && equal status "$(rows "select status from documents where size_bytes = 0")" 3
}

test_a_long_stream_is_not_kept() {
    mkdir big
    for i in $(seq 40); do # of 12 MB, more than what is taken whole
        fixture text big/$i.txt "thing number $i" 10
        head -c 300000 /dev/zero >>big/$i.bin
    done
    tar cf big.tar big
    cat big.tar | code 0 ingest --name backup - &&
    equal archive "$(rows "select path, status, sha256, size_bytes from documents where member = ''")" \
        "backup|0|$(sha256sum <big.tar | cut -c 1-64)|$(stat -c %s big.tar)" &&
    equal texts "$(rows "select count(*) from documents where status = 0 and member like '%.txt'")" 40 || return 1
    cat big.tar | code 0 ingest - && # not named: by its first 8 MiB
    equal archive "$(rows "select path from documents where member = '' and path like 'stdin:%'")" \
        "stdin:$(head -c 8388608 big.tar | sha256sum | cut -c 1-64)" &&
    cat big.tar | code 0 ingest - && grep -q '1 unchanged\|41 unchanged\|81 unchanged' out
}

test_lists_of_files() {
    make_docs
    find docs -type f >list
    code 0 ingest --files-from list && equal rows "$(rows "select count(*) from documents")" 5 &&
    find docs -type f -print0 | code 0 "$program" --store two --files-from - &&
    equal rows "$(fixture query two "select count(*) from documents")" 5 || return 1
    echo "$work/docs/not-there.txt" >>list
    code 2 ingest --files-from list && grep -q missing err &&
    equal rows "$(rows "select count(*) from documents")" 5 && code 66 ingest --files-from nowhere
}

test_dry_run_writes_nothing() {
    make_docs
    code 0 ingest --dry-run docs && [ ! -e store ] && equal lines "$(grep -c would-add out)" 5 &&
    code 0 ingest docs && sum=$(sha256sum <store/corpus.db) || return 1
    fixture text docs/notes.txt other 4
    fixture text docs/new.txt new 4
    code 0 ingest --dry-run docs && grep -q 'would-replace.*notes.txt' out && grep -q 'would-add.*new.txt' out &&
    equal rows "$(rows "select count(*) from documents")" 5
}

test_what_cannot_be_read() {
    make_docs
    head -c 3000 /dev/urandom >docs/noise.bin
    : >docs/empty.pdf
    head -c 400 docs/report.pdf >docs/cut.pdf
    truncate -s 2200M docs/vast.txt # sparse: no reader sees it
    code 2 ingest docs &&
    equal noise "$(rows "select status, code from documents d join problems p on p.document_id = d.id
        where path like '%noise.bin'")" "3|unknown-type" &&
    equal empty "$(rows "select status from documents where path like '%empty.pdf'")" 3 &&
    equal cut "$(rows "select status from documents where path like '%cut.pdf'")" 2 &&
    equal vast "$(rows "select status, code from documents d join problems p on p.document_id = d.id
        where path like '%vast.txt'")" "2|limit-size" &&
    equal rows "$(rows "select count(*) from documents")" 9 &&
    code 0 ingest docs && code 2 ingest --retry docs
}

test_passwords() {
    fixture pdf docs/secret.pdf 2 sesame
    fixture pdf docs/open.pdf 1
    printf 'wrong\nsesame\n' >passwords
    code 2 ingest docs && equal problem "$(rows "select code from problems")" encrypted &&
    code 0 ingest docs &&
    code 0 ingest --password-file passwords docs &&
    equal rows "$(rows "select status, page_count from documents order by path" | tr '\n' ' ')" "0|1 0|2 " &&
    code 66 ingest --password-file nowhere docs
}

test_exit_codes() {
    make_docs
    code 64 ingest && code 64 ingest --nonsense docs && code 64 ingest --jobs 0 docs && code 64 ingest --name x docs &&
    code 66 ingest docs/not-there && code 0 ingest --help && code 0 ingest --version && [ ! -e store ] || return 1
    : >file
    code 73 "$program" --store "$work/file/store" docs || return 1
    mkdir notastore
    : >notastore/something
    echo 'no database' >notastore/corpus.db
    "$program" --store notastore docs >/dev/null 2>&1 && return 1
    mkfifo slow
    (exec "$program" --store "$work/store" - <slow >/dev/null 2>&1) &
    holder=$!
    exec 9>slow
    for _ in $(seq 50); do [ -e store/corpus.db ] && break; sleep 0.1; done
    code 75 ingest docs
    result=$?
    exec 9>&-
    wait $holder
    return $result
}

test_links_and_hidden_files() {
    make_docs
    mkdir outside docs/.git
    fixture text outside/secret.txt secret 3
    fixture text docs/.git/config internals 3
    ln -s ../outside docs/way-out
    ln -s ../outside/secret.txt docs/link.txt
    mkfifo docs/pipe
    code 0 ingest docs && equal rows "$(rows "select count(*) from documents")" 5 &&
    code 0 ingest docs/link.txt && # named: followed, and stored by its true name
    equal path "$(rows "select path from documents where path like '%secret.txt'")" "$(realpath outside/secret.txt)" &&
    code 0 ingest --hidden docs && equal rows "$(rows "select count(*) from documents")" 7
}

test_names_that_are_not_utf8() {
    fixture text "docs/$(printf 'caf\351.txt')" coffee 3
    code 0 ingest docs && equal path "$(rows "select path from documents")" "$(realpath docs)/caf\\xE9.txt" &&
    code 0 ingest --prune docs && grep -q '1 unchanged' out || return 1
    rm docs/*
    fixture text docs/x.txt x 3
    code 0 ingest --prune docs && equal path "$(rows "select path from documents")" "$(realpath docs)/x.txt"
}

test_nothing_leaves_the_store() {
    mkdir evil
    fixture text evil/a.txt evil 3
    tar cf evil.tar --transform 's,^evil,../../escape,' -P evil/a.txt
    tar rf evil.tar --transform 's,^evil,/tmp/escape-abs,' -P evil/a.txt
    find . -newer evil.tar | sort >before
    code 0 ingest evil.tar || return 1
    [ ! -e ../escape ] && [ ! -e ../../escape ] && [ ! -e /tmp/escape-abs ] &&
    equal "new files" "$(find . -newer evil.tar -not -path './store*' -not -name before -not -name out -not -name err -not -name . )" "" &&
    equal rows "$(rows "select count(*) from documents where member != ''")" 2
}

test_any_number_of_jobs_gives_the_same_store() {
    make_docs
    for i in 1 2 3; do fixture pdf docs/more-$i.pdf $((i * 3)); done
    tar czf pack.tar.gz docs
    mv pack.tar.gz docs
    cp docs/pack.tar.gz copy.tgz
    for jobs in 1 2 7; do
        code 0 "$program" --store store-$jobs --jobs $jobs docs copy.tgz || return 1
        fixture verify store-$jobs >/dev/null || return 1
        # Which of equal files is the original may differ; how many there are may not.
        fixture query store-$jobs "select d.sha256, min(status), max(chunk_count), count(*), count(distinct status)
            from documents d group by 1 order by 1" >rows-$jobs
    done
    cmp rows-1 rows-2 && cmp rows-1 rows-7
}

# The parent believes nothing: beside it stands an extractor that lies.
test_a_lying_extractor() {
    mkdir bin
    cp "$program" bin/dsa-ingest
    cp "$here/lying_extract.py" bin/dsa-extract
    for name in $(bin/dsa-extract --names); do echo "$name" >"docs/$name"; done
    for jobs in 1 3; do
        code 2 bin/dsa-ingest --store store-$jobs --jobs $jobs docs || return 1
        fixture query store-$jobs "select replace(path, '$PWD/docs/', ''), status, page_count, title from documents
            where member = '' order by path" >rows-$jobs
        fixture verify store-$jobs >/dev/null || return 1
    done
    cmp rows-1 rows-3 && equal files "$(wc -l <rows-1)" "$(find docs -type f | wc -l)" || return 1
    expect() { equal "$1" "$(grep "^$1" rows-1)" "$1|$2"; }
    expect honest.txt "0|1|" && expect garbage.txt "2|0|" && expect nothing.txt "2|0|" && expect no-end.txt "1|1|" &&
    expect mid-page.txt "1|2|" && expect mid-frame.txt "1|1|" && expect huge-frame.txt "2|0|" &&
    expect no-start.txt "2|0|" && expect pages-descend.txt "1|1|" && expect not-utf8.txt "1|1|" &&
    expect json-types.txt "1|1|" && expect escape.txt "0|1|a[31mred line" && expect both.txt "1|1|" &&
    expect server-dies.txt "2|0|"
}

test_json() {
    make_docs
    head -c 3000 /dev/urandom >docs/noise.bin
    code 0 ingest --json docs || return 1
    /usr/bin/python3 - out <<'END'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
summary = lines.pop()["summary"]
assert len(lines) == 6 and summary["documents"] == 6 and summary["ok"] == 5 and summary["skipped"] == 1, summary
assert summary["pages"] == sum(l["pages"] for l in lines) and summary["chunks"] == sum(l["chunks"] for l in lines)
noise = [l for l in lines if l["path"].endswith("noise.bin")][0]
assert noise["status"] == "skipped" and noise["problems"][0]["code"] == "unknown-type", noise
END
}

test_progress_on_a_terminal_only() {
    for i in $(seq 8); do fixture pdf docs/$i.pdf 60; done
    fixture terminal "$program" --store "$work/store" docs >terminal || return 1
    grep -q 'documents.*pages/s.*MB/s' terminal || { fail "no bar"; return 1; }
    rm -r store
    # A sanitizer build of the extractor may have its say there.
    code 0 ingest docs && { grep -q Sanitizer err || equal "standard error" "$(cat err)" ""; } && ! grep -q pages/s err
}

test_killed_at_any_moment() {
    for i in $(seq 30); do fixture pdf docs/$i.pdf 12; done
    (cd docs && tar cf pack.tar 1.pdf 2.pdf 3.pdf && rm 1.pdf)
    for round in 1 2 3 4 5 6 7 8; do
        "$program" --store "$work/store" --jobs 3 docs >/dev/null 2>&1 &
        pid=$!
        sleep 0.0$((round * 7 % 10))$round
        kill -KILL $pid 2>/dev/null
        wait $pid 2>/dev/null
        [ -e store/corpus.db ] || continue
        fixture verify store >/dev/null || { fail "round $round"; return 1; }
    done
    code 0 ingest docs &&
    equal rows "$(rows "select count(*), sum(status = 0), sum(status = 4) from documents")" "33|31|2" &&
    equal pages "$(rows "select count(*) from pages")" $((30 * 12)) && fixture verify store >/dev/null &&
    code 0 ingest docs && grep -q '30 unchanged' out
}

test_stopped_on_request() {
    for i in $(seq 60); do fixture pdf docs/$i.pdf 60; done
    "$program" --store "$work/store" --jobs 2 docs >out 2>err &
    pid=$!
    for _ in $(seq 100); do [ -e store/corpus.db ] && break; sleep 0.02; done
    sleep 0.1
    kill -TERM $pid
    wait $pid
    equal code $? 130 && [ "$(rows "select count(*) from documents")" -lt 60 ] && fixture verify store >/dev/null &&
    code 0 ingest docs && equal rows "$(rows "select count(*) from documents where status = 0")" 60
}

for name in $(declare -F | sed -n 's/^declare -f test_//p'); do run_test "$name"; done
echo "1..$number"
exit $failed
