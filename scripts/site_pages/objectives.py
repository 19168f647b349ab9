"""The objective of each algorithm in LaTeX, as far as matplotlib's mathtext reads it; one line of the page a line."""

_SHAPED = r"\tilde{r}_t = r_t - \beta\,\log\,\dfrac{\pi_{old}(a_t|s_t)}{\pi_{ref}(a_t|s_t)}"
_RETURN = r"R_i = \sum_t\, \tilde{r}_{i,t}"
_GAE = r"A_t = \sum_{l \geq 0} \lambda^l\,\delta_{t+l}, \quad \delta_t = \tilde{r}_t + V(s_{t+1}) - V(s_t)"
_RATIO = r"\rho_t = \dfrac{\pi_\theta(a_t|s_t)}{\pi_{old}(a_t|s_t)}"
_CLIPPED = (
    r"L_\pi = -\,\mathrm{mean}_{t}\; \min\left(\rho_t\,\hat{A}_t,\;"
    r" \mathrm{clip}(\rho_t,\, 1-\varepsilon,\, 1+\varepsilon')\,\hat{A}_t\right)"
)
_WHITE = r"\hat{A} = (A - \mathrm{mean}\,A)\; /\; \mathrm{std}\,A"
_VALUE = r"L_V = \dfrac{1}{2}\,\mathrm{mean}_{t}\; \max\left((V - G_t)^2,\; (V_{clip} - G_t)^2\right)"
_GOAL = r"G_t = A_t + V_{old}(s_t)"
_BOTH = r"L = L_\pi + c_V\,L_V"
_GRADIENT = r"L = -\,\mathrm{mean}_{t}\; \hat{A}_t\,\log \pi_\theta(a_t|s_t)"
_GROUP_GRADIENT = r"L = -\,\mathrm{mean}_{i,t}\; A_i\,\log \pi_\theta(a_{i,t}|s_{i,t})"
_GROUP = r"A_i = \dfrac{S_i - \mathrm{mean}_j\,S_j}{\mathrm{std}_j\,S_j}, \quad i,j \in 1 \ldots k"
_K3 = r"k_3 = \dfrac{\pi_{ref}}{\pi_\theta} - 1 - \log\,\dfrac{\pi_{ref}}{\pi_\theta}"


_GROUP_LOSS = r"L = -\,\mathrm{mean}_i\, \dfrac{1}{|y_i|} \sum_t \left(c_{i,t} - \beta\,k_3\right)"


def _group_clip(ratio: str) -> str:
    return (
        r"c_{i,t} = \min\left(RATIO\,A_i,\; \mathrm{clip}(RATIO,\, 1-\varepsilon,\, 1+\varepsilon')\,A_i\right)"
    ).replace("RATIO", ratio)


_PPO = (_SHAPED, _GAE, _WHITE, _RATIO, _CLIPPED, _GOAL, _VALUE, _BOTH)

_LINES = {
    "ppo": _PPO,
    "nlpo": (
        r"\pi^{m}(a|s) \propto \pi(a|s)\;\mathbf{1}\,[a \in N_p(s)]",
        r"N_p(s):\;\mathrm{fewest\ tokens\ that\ hold\ the\ mass}\;p\;\mathrm{of}\;\pi_{mask}(\cdot|s)",
        *(line.replace(r"\pi_\theta", r"\pi^m_\theta").replace(r"\pi_{old}", r"\pi^m_{old}") for line in _PPO),
    ),
    "a2c": (
        _SHAPED,
        r"A_t = \sum_{u \geq t} \tilde{r}_u - V(s_t)",
        _WHITE,
        _GRADIENT.replace("L =", r"L_\pi ="),
        _GOAL,
        _VALUE,
        _BOTH,
    ),
    "trpo": (
        _SHAPED,
        _GAE,
        _WHITE,
        r"\max_\theta\; \mathrm{mean}_t\; \rho_t\,\hat{A}_t",
        r"\mathrm{so\ that}\; \mathrm{mean}_t\; KL\left(\pi_{old}(\cdot|s_t)\,\Vert\,\pi_\theta(\cdot|s_t)\right)"
        r" \leq \delta",
        r"\Delta\theta = \sqrt{\dfrac{2\,\delta}{g^\top F^{-1} g}}\; F^{-1} g",
        r"\mathrm{shortened\ until\ the\ bound\ holds}",
    ),
    "reinforce": (_SHAPED, r"A_t = \sum_{u \geq t} \tilde{r}_u", _WHITE, _GRADIENT),
    "rloo": (_RETURN, r"A_i = R_i - \dfrac{1}{k-1} \sum_{j \neq i} R_j", _GROUP_GRADIENT),
    "grpo": (
        _GROUP,
        r"\rho_{i,t} = \dfrac{\pi_\theta(a_{i,t}|s_{i,t})}{\pi_{old}(a_{i,t}|s_{i,t})}",
        _group_clip(r"\rho_{i,t}"),
        _K3,
        _GROUP_LOSS,
    ),
    "gspo": (
        _GROUP,
        r"\rho_i = \left(\dfrac{\pi_\theta(y_i|x)}{\pi_{old}(y_i|x)}\right)^{1/|y_i|}",
        _group_clip(r"\rho_i"),
        _K3,
        _GROUP_LOSS,
    ),
    "remax": (_RETURN, r"A_i = R_i - S(\mathrm{greedy\ response\ to\ the\ same\ prompt})", _GROUP_GRADIENT),
    "best-of-n": (
        r"y_1, \ldots, y_n \sim \pi_{ref}(\cdot|x), \quad y^* = \mathrm{argmax}_i\; R(y_i)",
        r"L = -\,\mathrm{mean}_t\; \log \pi_\theta(y^*_t|s_t)",
        r"KL \leq \log n - \dfrac{n-1}{n}",
    ),
    "expert-iteration": (
        r"y_1, \ldots, y_k \sim \pi_\theta(\cdot|x), \quad y^* = \mathrm{argmax}_i\; R(y_i)",
        r"L = -\,\mathrm{mean}_t\; \log \pi_\theta(y^*_t|s_t)",
    ),
}

OBJECTIVES = {name: "\n".join(lines) for name, lines in _LINES.items()}
"""By the name that commands use."""
