"""What the page says, in Korean and English, and the names of labels in Korean.

In    a language, "ko" or "en"; a label as the model names it.
Out   text.
Run   through demo/page.py
"""

from typing import Literal

Language = Literal["ko", "en"]
LANGUAGES: dict[str, Language] = {"한국어": "ko", "English": "en"}

SAID: dict[str, tuple[str, str]] = {
    "title": ("붉은 심장 · Red Heart", "Red Heart · 붉은 심장"),
    "lead": (
        "글을 쓰면 감정, 벤담의 일곱 조건, 후회를 답합니다. 모델의 계산일 뿐 사실도 조언도 아닙니다.",
        "Type a text: emotion, Bentham's seven circumstances and regret come out. It is what a model computes, "
        "neither a fact nor advice.",
    ),
    "text": ("글", "Text"),
    "actions": ("선택지 (한 줄에 하나, 둘 이상)", "Alternatives (one a line, two or more)"),
    "chosen": ("실제로 고른 것 (첫 줄이 1, 없으면 0)", "The one that was chosen (the first line is 1; 0: none)"),
    "ask": ("묻기", "Ask"),
    "why": ("왜?", "Why?"),
    "scenario": ("장면", "Scenario"),
    "dialogue": ("대화", "Dialogue"),
    "run": ("학습", "Training run"),
    "turn": ("다음 말", "Next turn"),
    "say": ("말하기", "Say"),
    "anew": ("처음부터", "Begin anew"),
    "emotions": ("감정", "Emotions"),
    "polarity": ("방향", "Polarity"),
    "basic_emotions": ("일곱 감정", "Seven emotions"),
    "fine_emotions": ("스물여덟 가운데 위의 여섯", "The six likeliest of 28"),
    "korean_emotions": ("마흔넷 가운데 위의 여섯 (KOTE)", "The six likeliest of 44 (KOTE)"),
    "culture": ("정·한·체면", "Jeong, han, chemyeon"),
    "vad": (
        "정서가·각성·지배, 막대는 표준편차 하나",
        "Valence, arousal, dominance; the bar is one standard deviation",
    ),
    "circumstances": ("벤담의 일곱 조건", "Bentham's seven circumstances"),
    "utility": ("더한 값 (효용)", "Their sum (utility)"),
    "acceptability": ("네 학파가 받아들일 만한 정도", "Acceptable to four schools"),
    "regret": ("골랐을 때의 후회", "Regret of choosing it"),
    "best": ("가장 나은 선택", "the best"),
    "was_chosen": ("고른 것", "chosen"),
    "action": ("선택지", "Alternative"),
    "similar": ("비슷한 사례 (답에는 쓰이지 않음)", "Similar cases (they take no part in the answer)"),
    "words": ("낱말의 몫", "What each word contributes to"),
    "surd": ("SURD: 판단에 대해 누가 아는가", "SURD: who knows what of the verdict"),
    "by_chance": ("우연히도 이만큼 나옵니다", "found by chance alone"),
    "untaught": ("이 모델은 배우지 않았습니다", "this model was never taught it"),
    "windows": ("긴 글이라 {0}개 창으로 나누어 읽고 평균했습니다.", "A long text: read in {0} windows and averaged."),
    "empty": ("먼저 글을 써 주세요.", "Type a text first."),
    "too_long": ("글이 {0}자입니다. {1}자까지 읽습니다.", "That is {0} characters; {1} are read at once."),
    "too_many": ("선택지가 {0}개입니다. {1}개까지 견줍니다.", "Those are {0} alternatives; {1} can be compared."),
    "one_action": (
        "선택지가 하나뿐입니다. 둘 이상 적어 주세요.",
        "That is one alternative; a choice needs two or more.",
    ),
    "no_choice": (
        "고른 번호가 {0}입니다. 1부터 {1}까지, 고르지 않았으면 0입니다.",
        "The chosen one is {0}; it is 1 to {1}, or 0 for none.",
    ),
    "slow_down": (
        "잠시 뒤에 다시 해 주세요: 1분에 {0}번까지 물을 수 있습니다.",
        "Wait a moment: {0} questions a minute are answered.",
    ),
    "too_many_turns": (
        "대화가 {0}마디에 이르렀습니다. 처음부터 시작해 주세요.",
        "The dialogue has {0} turns; begin anew.",
    ),
    "fault": ("프로그램 오류입니다. 기록에 남겼습니다.", "A fault of the program; it is in the log."),
    "no_filter": (
        "이 모델에는 대화를 따라가는 감정 필터가 없습니다.",
        "This model has no affect filter to follow a dialogue.",
    ),
}

KOREAN: dict[str, str] = {
    **{"positive": "긍정", "negative": "부정", "ambiguous": "모호", "neutral": "중립"},
    **{"anger": "분노", "disgust": "혐오", "fear": "공포", "joy": "기쁨", "sadness": "슬픔", "surprise": "놀람"},
    **{"admiration": "감탄", "amusement": "즐거움", "annoyance": "짜증", "approval": "인정", "caring": "보살핌"},
    **{"confusion": "혼란", "curiosity": "호기심", "desire": "바람", "disappointment": "실망", "disapproval": "반감"},
    **{"embarrassment": "부끄러움", "excitement": "신남", "gratitude": "고마움", "grief": "비탄", "love": "사랑"},
    **{"nervousness": "초조", "optimism": "낙관", "pride": "뿌듯함", "realization": "깨달음", "relief": "안도"},
    **{"remorse": "뉘우침", "jeong": "정", "han": "한", "chemyeon": "체면"},
    **{"valence": "정서가", "arousal": "각성", "dominance": "지배"},
    **{"intensity": "강도", "duration": "지속", "certainty": "확실", "propinquity": "근접", "fecundity": "다산"},
    **{"purity": "순수", "extent": "범위"},
    **{"utilitarian": "공리주의", "deontology": "의무론", "justice": "정의", "virtue": "덕"},
    **{"optimistic": "낙관", "pessimistic": "비관", "utility": "효용", "regret": "후회"},
}

EXAMPLES: dict[Language, list[tuple[str, str, int]]] = {
    "ko": [
        ("면접에서 또 떨어졌다.", "", 0),
        ("동생이 또 돈을 빌려 달란다.", "빌려준다\n좋은 말로 거절한다\n연락을 피한다", 2),
    ],
    "en": [
        ("The nurse stayed an hour past her shift so nobody died alone.", "", 0),
        ("He found a wallet on the bus.", "Hand it to the driver\nKeep the money\nLeave it there", 2),
    ],
}


def say(name: str, language: Language, *values: object) -> str:
    return SAID[name][0 if language == "ko" else 1].format(*values)


def label(name: str, language: Language) -> str:
    return KOREAN.get(name, name) if language == "ko" else name
