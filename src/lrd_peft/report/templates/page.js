"use strict";
// The page is complete without this script, which filters problems and opens figures at full size.
const large = document.getElementById("large");
const close = () => {
  large.hidden = true;
  document.body.style.overflow = "";
};
for (const link of document.querySelectorAll("a.picture")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    large.firstElementChild.src = link.firstElementChild.src;
    large.firstElementChild.alt = link.firstElementChild.alt;
    large.hidden = false;
    document.body.style.overflow = "hidden";
  });
}
large.addEventListener("click", close);
document.addEventListener("keydown", (event) => event.key === "Escape" && close());
const bar = document.querySelector(".filters");
if (bar) {
  const problems = [...document.querySelectorAll("details.problem")];
  const [dataset, outcome, text] = ["dataset", "outcome", "text"].map((name) => bar.querySelector(`[name=${name}]`));
  const count = document.getElementById("count");
  const filter = () => {
    const words = text.value.toLowerCase();
    let shown = 0;
    for (const problem of problems) {
      problem.hidden =
        (dataset.value !== "" && problem.dataset.set !== dataset.value) ||
        (outcome.value !== "" && problem.dataset.outcome !== outcome.value) ||
        !problem.textContent.toLowerCase().includes(words);
      shown += problem.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${problems.length} problems`;
  };
  bar.addEventListener("input", filter);
  bar.hidden = false;
  filter();
}
