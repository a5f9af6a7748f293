"""The top of a site's page: what is wrong, the gravest first, as text that a browser shows and does not run."""

from fedsilo.cohort.contract import Finding
from tasks import contract_page


def finding(rule, action, case, got="5"):
    return Finding(
        rule=rule, action=action, site="mr-a", case=case, field="x", meaning="wrong", expected="1", got=got, fix="repair it"
    )


def headed(*findings):
    return contract_page.headed("<body><p>below</p>", site="mr-a", num_cases=14, outcome="takes no part", findings=findings)


def test_the_gravest_come_first():
    page = headed(finding("L4", "warn", "b"), finding("N1", "stop site", ""), finding("F1", "quarantine", "a"))

    assert page.index("<td>N1</td>") < page.index("<td>F1</td>") < page.index("<td>L4</td>") < page.index("below")
    assert "<td>the site</td>" in page
    assert "14 cases. mr-a takes no part." in page


def test_what_a_file_says_is_shown_and_not_run():
    page = headed(finding("F1", "quarantine", "a", got="<script>alert(1)</script>"))

    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_clean_site_says_so():
    assert "No findings." in headed()
    assert "<table>" not in headed()
