"""Short descriptions of the data sets: the ``DESCR`` of the loaders."""

from __future__ import annotations

__all__ = ["ADULT", "BANK", "BIASED_DIGITS", "COMPAS", "FASHION_MNIST", "GERMAN"]

ADULT = """\
Adult census income (UCI, 1994 US census; licence CC BY 4.0)

48,842 people: 32,561 of the published training file, then 16,281 of the test file.
Target: 1 = income above 50,000 dollars a year (favourable), 0 = not.
Sensitive features: sex, race. Both stay among the columns of the data.
Share of target 1 in the training file: 0.241 of all; women 0.109, men 0.306.
Missing values of workclass, occupation and native-country are NaN and no row is dropped;
AIF360 drops those rows (45,222 stay after `frame.dropna()`).
Left out: fnlwgt, the survey's sampling weight, as AIF360 does. `relationship` (husband, wife)
and `marital-status` stay, although they reveal much about sex.
"""

COMPAS = """\
COMPAS two-year recidivism (ProPublica, Broward County 2013-2014; public records)

6,172 defendants after ProPublica's filter (screened within 30 days of the arrest, a charge that
is not an ordinary traffic offence, recidivism known, a score given), of 7,214.
Target: 1 = charged with a new crime within two years, 0 = not. The favourable class is 0.
Sensitive features: race, sex, age_cat. All stay among the columns of the data. The usual task
with two groups is `load_compas(races=("African-American", "Caucasian"))`, 5,278 rows.
Share of target 1: 0.455 of all; African-American 0.523, Caucasian 0.391.
Left out, as AIF360 does: the scores of COMPAS itself (decile_score, score_text), which are
another system's predictions, and everything known only afterwards (is_recid). A missing charge
description is NaN.
"""

GERMAN = """\
German credit (UCI Statlog, Hofmann 1994; licence CC BY 4.0)

1,000 credits. Target: 1 = good credit (favourable), 0 = bad.
Sensitive features: age_group (">25" or "<=25", the limit of Kamiran and Calders) and sex, read
from the personal status. Both are columns of the data, beside the age in years; the personal
status itself, which also states the sex, is left out, as AIF360 does.
Share of target 1: 0.700 of all; above 25 years 0.728, others 0.579.
Categories are the codes of the file's documentation (A11, A12, ...).
"""

BANK = """\
Bank marketing (UCI, Moro, Cortez and Rita 2014; licence CC BY 4.0)

41,188 phone calls of a Portuguese bank, May 2008 to November 2010, in order of time.
Target: 1 = the client subscribed to a term deposit (favourable), 0 = not.
Sensitive feature: age_group (">=25" or "<25"), a column of the data beside the age in years.
(AIF360 0.6.1 also counts clients of 60 years and more as unprivileged; older versions did not.)
Share of target 1: 0.113 of all; under 25 years 0.240, others 0.109.
Values that the bank calls "unknown" are NaN and no row is dropped; AIF360 drops those rows (30,488
stay after `frame.dropna()`).
`duration`, the length of the call, stays, as in AIF360, but is unknown until the call has ended: a
model that decides whom to call needs `data.drop(columns="duration")`.
"""

FASHION_MNIST = """\
Fashion-MNIST (Zalando Research, arXiv:1708.07747; MIT licence)

60,000 training and 10,000 test images of articles of clothing, 28 x 28 pixels, grey, unsigned
bytes; ten classes of equal size. It has no sensitive feature: plant one with `make_tinted`.
"""

BIASED_DIGITS = """\
Tinted digits (UCI optical recognition of handwritten digits, as scikit-learn ships them)

Up to 1,797 handwritten digits of 8 x 8 pixels, each tinted in one of several colours. The colour
is the sensitive feature. It agrees with the label for exactly the share `strength` of each class
(rounded to whole rows), so that a network learns the colour instead of the shape.
"""
