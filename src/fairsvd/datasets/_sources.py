"""Addresses and checksums of the published files."""

from __future__ import annotations

from ._files import RemoteFile

__all__ = ["ADULT_FILES", "BANK_FILE", "COMPAS_FILE", "FASHION_FILES", "GERMAN_FILE"]

UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"
# A commit, not a branch, since the checksum holds for one version only. Several independent
# projects publish this digest for the file.
PROPUBLICA = (
    "https://raw.githubusercontent.com/propublica/compas-analysis/"
    "bafff5da3f2e45eca6c2d5055faad269defd135a"
)

ADULT_FILES = (
    RemoteFile(
        "adult",
        "adult.data",
        f"{UCI}/adult/adult.data",
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        3_974_305,
    ),
    RemoteFile(
        "adult",
        "adult.test",
        f"{UCI}/adult/adult.test",
        "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
        2_003_153,
    ),
)
COMPAS_FILE = RemoteFile(
    "compas",
    "compas-scores-two-years.csv",
    f"{PROPUBLICA}/compas-scores-two-years.csv",
    "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
    2_546_489,
)
GERMAN_FILE = RemoteFile(
    "german",
    "german.data",
    f"{UCI}/statlog/german/german.data",
    "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
    79_793,
)
BANK_FILE = RemoteFile(
    "bank",
    "bank-additional-full.csv",
    f"{UCI}/00222/bank-additional.zip",
    "74adfc578bf77a7ff4bb1ba4a9f8709d9e3c6907342959c2c8416847e0afb4d8",
    5_834_924,
    member="bank-additional/bank-additional-full.csv",
)
ZALANDO = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"

# For each subset the images and the labels.
FASHION_FILES = {
    "train": (
        RemoteFile(
            "fashion-mnist",
            "train-images-idx3-ubyte.gz",
            f"{ZALANDO}/train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            26_421_880,
        ),
        RemoteFile(
            "fashion-mnist",
            "train-labels-idx1-ubyte.gz",
            f"{ZALANDO}/train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            29_515,
        ),
    ),
    "test": (
        RemoteFile(
            "fashion-mnist",
            "t10k-images-idx3-ubyte.gz",
            f"{ZALANDO}/t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            4_422_102,
        ),
        RemoteFile(
            "fashion-mnist",
            "t10k-labels-idx1-ubyte.gz",
            f"{ZALANDO}/t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            5_148,
        ),
    ),
}
