"""Names and orders of every label the model knows, and which child belongs to which parent.

In    nothing.
Out   tuples of names (their order is the order of the model's outputs) and parent tables.
Run   `python -c "from redheart_hf.labels import KOREAN_TO_BASIC; print(KOREAN_TO_BASIC)"`

Sources: the seven basic emotions are Ekman's six and neutral in the grouping of GoEmotions (Demszky et al. 2020,
arXiv 2005.00547, appendix A); the fine emotions are its 28; the Korean ones are the 44 of KOTE (Jeon et al. 2022,
arXiv 2205.05300) in the order of its `labels.txt`. KOTE publishes no mapping to basic emotions: the one here is ours,
and every line of it gives its reason.
"""

TASKS = ("emotion", "ethics", "regret", "surd")

POLARITIES = ("positive", "negative", "ambiguous", "neutral")
BASIC_EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
BASIC_TO_POLARITY = {
    "anger": "negative",
    "disgust": "negative",
    "fear": "negative",
    "joy": "positive",
    "neutral": "neutral",
    "sadness": "negative",
    "surprise": "ambiguous",
}

FINE_TO_BASIC = {
    "admiration": "joy",
    "amusement": "joy",
    "anger": "anger",
    "annoyance": "anger",
    "approval": "joy",
    "caring": "joy",
    "confusion": "surprise",
    "curiosity": "surprise",
    "desire": "joy",
    "disappointment": "sadness",
    "disapproval": "anger",
    "disgust": "disgust",
    "embarrassment": "sadness",
    "excitement": "joy",
    "fear": "fear",
    "gratitude": "joy",
    "grief": "sadness",
    "joy": "joy",
    "love": "joy",
    "nervousness": "fear",
    "optimism": "joy",
    "pride": "joy",
    "realization": "surprise",
    "relief": "joy",
    "remorse": "sadness",
    "sadness": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}
FINE_EMOTIONS = tuple(FINE_TO_BASIC)

# Rule of the mapping: the basic emotion under which GoEmotions files the nearest of its 28; where none is near, the
# one that the situation named by the label brings with it.
KOREAN_TO_BASIC_REASONS = {
    "불평/불만": ("anger", "complaint: GoEmotions files annoyance and disapproval under anger"),
    "환영/호의": ("joy", "welcome, goodwill: nearest is approval"),
    "감동/감탄": ("joy", "moved, admiring: nearest is admiration"),
    "지긋지긋": ("anger", "fed up: long annoyance"),
    "고마움": ("joy", "gratitude"),
    "슬픔": ("sadness", "sadness"),
    "화남/분노": ("anger", "anger"),
    "존경": ("joy", "respect: nearest is admiration"),
    "기대감": ("joy", "looking forward: nearest are optimism and excitement"),
    "우쭐댐/무시함": ("anger", "looking down on another: it rejects him, as disapproval does"),
    "안타까움/실망": ("sadness", "pity that it went so, disappointment"),
    "비장함": ("sadness", "solemn resolve in the face of loss: grave, never merry; the weakest line of this table"),
    "의심/불신": ("fear", "distrust: expects harm from another, the wariness that nervousness names"),
    "뿌듯함": ("joy", "pride in something achieved"),
    "편안/쾌적": ("joy", "at ease: nearest is relief"),
    "신기함/관심": ("surprise", "wonder and interest: nearest is curiosity"),
    "아껴주는": ("joy", "caring"),
    "부끄러움": ("sadness", "shame: GoEmotions files embarrassment under sadness"),
    "공포/무서움": ("fear", "fear"),
    "절망": ("sadness", "despair: nearest is grief"),
    "한심함": ("disgust", "finds someone pathetic: contempt, which Ekman sets beside disgust"),
    "역겨움/징그러움": ("disgust", "disgust"),
    "짜증": ("anger", "irritation: nearest is annoyance"),
    "어이없음": ("anger", "dumbfounded at nonsense: in use it scolds, as disapproval does"),
    "없음": ("neutral", "none"),
    "패배/자기혐오": ("sadness", "defeat, self-loathing: turned on oneself, nearest is remorse"),
    "귀찮음": ("anger", "can't be bothered: a mild annoyance"),
    "힘듦/지침": ("sadness", "worn out: low mood without an enemy"),
    "즐거움/신남": ("joy", "fun, excitement"),
    "깨달음": ("surprise", "realization"),
    "죄책감": ("sadness", "guilt: GoEmotions files remorse under sadness"),
    "증오/혐오": ("disgust", "hatred and loathing: 혐오 is the word for disgust"),
    "흐뭇함(귀여움/예쁨)": ("joy", "warmed by something dear or pretty"),
    "당황/난처": ("surprise", "taken aback: nearest is confusion"),
    "경악": ("surprise", "shock: surprise at its strongest"),
    "부담/안_내킴": ("fear", "burdened, reluctant: shrinks from what is coming, nearest is nervousness"),
    "서러움": ("sadness", "sorrow at being wronged"),
    "재미없음": ("disgust", "dull: rejects the thing, without an offender to be angry at"),
    "불쌍함/연민": ("sadness", "pity: feels another's sorrow"),
    "놀람": ("surprise", "surprise"),
    "행복": ("joy", "happiness"),
    "불안/걱정": ("fear", "unease, worry: nearest is nervousness"),
    "기쁨": ("joy", "joy"),
    "안심/신뢰": ("joy", "reassured, trusting: nearest is relief"),
}
KOREAN_TO_BASIC = {name: basic for name, (basic, _) in KOREAN_TO_BASIC_REASONS.items()}
KOREAN_EMOTIONS = tuple(KOREAN_TO_BASIC)
# Label field -> its names, from coarse to fine.
EMOTION_FIELDS = {
    "basic_emotions": BASIC_EMOTIONS,
    "fine_emotions": FINE_EMOTIONS,
    "korean_emotions": KOREAN_EMOTIONS,
}
DEFAULT_THRESHOLD = 0.5
"""The probability from which a label counts as present, where none was chosen."""

VAD = ("valence", "arousal", "dominance")
CULTURE = ("jeong", "han", "chemyeon")
CIRCUMSTANCES = ("intensity", "duration", "certainty", "propinquity", "fecundity", "purity", "extent")
ETHICS_EXPERTS = ("utilitarian", "deontology", "justice", "virtue")
VIEWS = ("optimistic", "neutral", "pessimistic")

# Agents 1, 2 and 3 are predicted valence, utility and neutral-view regret; R is redundant, U unique, S synergistic.
SURD_AGENTS = ("valence", "utility", "regret")
SURD_TERMS = ("R12", "R13", "R23", "R123", "U1", "U2", "U3", "S12", "S13", "S23", "S123", "leak")

# Parts of the model beside backbone and heads, each of which may be left out.
MODULES = (
    "surd_head",
    "emotion_analyzer",
    "ethics_analyzer",
    "regret_analyzer",
    "surd_analyzer",
    "signal_simulator",
    "affect_filter",
    "scenario_memory",
    "triangle",
)
# What a way of using the model needs. To infer, one may leave out what no other answer depends on; of a dialogue the
# affect filter is wanted too.
MODULES_OF_MODE = {
    "training": MODULES,
    "evaluation": MODULES,
    "inference": tuple(name for name in MODULES if name not in ("surd_head", "surd_analyzer", "affect_filter")),
    "dialogue": tuple(name for name in MODULES if name not in ("surd_head", "surd_analyzer")),
}
