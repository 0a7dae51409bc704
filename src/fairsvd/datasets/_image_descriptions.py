"""Short descriptions of the folders of images: the ``DESCR`` of the loaders."""

from __future__ import annotations

__all__ = ["CELEBA", "FAIRFACE", "FITZPATRICK17K", "HAM10000", "HAM10000_8X8", "ISIC", "UTKFACE"]

CELEBA = """\
CelebA (Liu, Luo, Wang and Tang 2015, arXiv:1411.7766; for non-commercial research)

202,599 faces of celebrities, aligned and cropped to 178 x 218 pixels, with forty attributes that
annotators ticked: 162,770 for training, 19,867 for validation, 19,962 for the test. Attributes
such as Attractive are opinions. The groups are what annotators saw, not what people said about
themselves.
"""

UTKFACE = """\
UTKFace (Zhang, Song and Qi 2017, arXiv:1702.08423; for non-commercial research)

Over 20,000 faces of people up to 116 years old. The name of each file holds age, gender and race,
 partly estimated by an algorithm and checked by annotators. A few names lack the race, or
gender and race: on_error="skip" leaves them out and names them.
"""

FAIRFACE = """\
FairFace (Karkkainen and Joo 2021, arXiv:1908.04913; CC BY 4.0)

108,501 faces from photographs of Flickr, drawn so that seven races are about equally frequent:
86,744 for training and 10,954 for validation are published. Race, gender and the nine classes of
ages are what annotators saw, not what people said about themselves.
"""

FITZPATRICK17K = """\
Fitzpatrick17k (Groh et al. 2021, arXiv:2104.09957; annotations CC BY-NC-SA 3.0)

16,577 clinical photographs of 114 skin conditions from two dermatology atlases. Two groups of
annotators judged the skin type from the image; -1 means that they could not. The groups are
types 1 to 3 (lighter) and 4 to 6 (darker).
"""

HAM10000 = """\
HAM10000 (Tschandl, Rosendahl and Kittler 2018, arXiv:1803.10417; CC BY-NC 4.0)

10,015 dermatoscopic images, 600 x 450 pixels, of 7,470 pigmented skin lesions. Target: malignant
(melanoma, basal cell carcinoma, and actinic keratoses with Bowen's disease) against benign.
Share of malignant: 0.195 of all; men 0.227, women 0.160; from 60 years on 0.366, below 0.100.
The sex of 57 and the age of 57 rows is not known.
"""

HAM10000_8X8 = (
    HAM10000
    + """\
Here as grey images of 8 x 8 pixels, from a table that is published with the images: enough to try
a method, far too coarse for a diagnosis.
"""
)

ISIC = """\
ISIC archive (International Skin Imaging Collaboration; licence by image, mostly CC BY-NC or CC0)

Images of skin lesions, most of them dermatoscopic, with the sex and the approximate age of the
patient. Target: malignant against benign; indeterminate ones have no label.
"""
