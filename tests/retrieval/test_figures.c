/* test_figures.c: the figures that README and eval/README.md state do not get worse. Needs the public sets (DSA_DATA)
 * and dsa-eval (DSA_EVAL). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/check.h"

/* Runs dsa-eval and keeps what it prints. */
static const char *run_eval(const char *arguments, const char *set, const char *more)
{
    static char output[8192];
    const char *program = getenv("DSA_EVAL"), *data = check_data_dir();
    char command[8192];
    size_t len;
    FILE *pipe;

    if (!program)
        SKIP("DSA_EVAL names no program");
    (void)snprintf(command, sizeof command, "'%s' %s '%s/%s' %s%s%s", program, arguments, data, set, more ? "'" : "",
                   more ? data : "", more ? more : "");
    pipe = popen(command, "r");
    CHECK(pipe != NULL);
    len = fread(output, 1, sizeof output - 1, pipe);
    output[len] = '\0';
    CHECK_EQ_INT(pclose(pipe), 0);
    return output;
}

static double number_after(const char *output, const char *mark)
{
    const char *at = strstr(output, mark);

    if (!at)
        FAIL("'%s' is not in the output: %s", mark, output);
    return atof(at + strlen(mark));
}

TEST(retrieval_figures)
{
    const char *output = run_eval("retrieval", "ir/wiki-passages-dev", NULL);

    CHECK(number_after(output, "nDCG@10 ") >= 0.88);
    CHECK(number_after(output, "in 5 ") >= 96);
    output = run_eval("retrieval", "ir/cranfield", NULL);
    CHECK(number_after(output, "nDCG@10 ") >= 0.375);
}

/* The last column is of all questions. */
TEST(baseline_figures)
{
    const char *output = run_eval("baselines", "ir/wiki-passages-dev", "/qa/qa_dev.jsonl'");
    const char *line = strstr(output, "logistic regression");
    double tune, report, all;

    CHECK(line != NULL);
    CHECK_EQ_INT(sscanf(line, "%*[^0-9]%lf%% %*d B %lf%% %*d B %lf%%", &tune, &report, &all), 3);
    CHECK(all >= 68 && report >= 65);
}
