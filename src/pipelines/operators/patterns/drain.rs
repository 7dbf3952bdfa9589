//! Drain: templates of messages, found as the messages come (He, Zhu, Zheng, Lyu: "Drain: An Online Log Parsing Approach with Fixed Depth Tree", ICWS 2017).
//!
//! A message is its words, masked. A tree leads to the templates that it may belong to: by how many words it has, then by its first words, one level each. Words with a digit in them, and
//! those for which a level has no place, lead through a branch for all others. Of the templates there the message belongs to the one that has the most words in common with it, if these
//! are enough; where words differ the template has `<*>` from then on. If there is none, it is the first of a new template.
//!
//! What is masked in a message counts as in common with what varies in the template, as in the paper; of two templates with as much in common that in which more varies is taken, then the
//! older, so that a special one does not grow into a double of a general one.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::mask::{WILD, has_digit, mask};

/// How templates are found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// By how many first words the tree leads on: its depth without root and leaves.
    pub(super) words: usize,
    /// The part of a message's words that must be those of its template, 0 to 1.
    pub(super) similarity: f64,
    /// How many words a level tells apart.
    pub(super) children_max: usize,
    /// How many templates there may be.
    pub(super) templates_max: usize,
}

/// The templates of one source of messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Miner {
    total: u64,
    templates: Vec<Template>,
    /// By the number of words.
    lengths: BTreeMap<usize, Node>,
}

/// Words that messages have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Template {
    words: Vec<SmolStr>,
    count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Node {
    children: BTreeMap<SmolStr, Node>,
    /// For words that are no children.
    others: Option<Box<Node>>,
    /// The templates that are found here, in the order in which they came.
    templates: Vec<usize>,
}

/// What a message has done to its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is the first.
    New,
    /// More of it varies than before.
    Changed,
    /// Nothing.
    Known,
}

impl Miner {
    /// Finds a message's template, or makes one, and counts the message: the template's position, and what has become of it. `None` if there are too many templates, and none has anything in
    /// common with it: then the message does not count.
    pub(super) fn mine(&mut self, message: &str, rules: &Rules) -> Option<(usize, Effect)> {
        let words: Vec<SmolStr> = message.split_whitespace().map(|word| mask(word).into()).collect();
        let mut found = self.search(&words, rules);
        if found.is_none() && self.templates.len() >= rules.templates_max {
            found = Some(self.nearest(&words)?);
        }
        let (at, effect) = match found {
            Some(at) if self.templates[at].widen(&words) => (at, Effect::Changed),
            Some(at) => (at, Effect::Known),
            None => (self.add(words, rules), Effect::New),
        };
        self.templates[at].count += 1;
        self.total += 1;
        Some((at, effect))
    }

    /// A template.
    pub(super) fn template(&self, at: usize) -> &Template {
        &self.templates[at]
    }

    /// The part that a template has of all messages.
    pub(super) fn share(&self, at: usize) -> f64 {
        self.templates[at].count as f64 / self.total.max(1) as f64
    }

    /// The template in the tree that a message belongs to.
    fn search(&self, words: &[SmolStr], rules: &Rules) -> Option<usize> {
        let mut node = self.lengths.get(&words.len())?;
        for word in words.iter().take(rules.words) {
            node = node.children.get(word).or(node.others.as_deref())?;
        }
        let (at, common) = self.most_in_common(&node.templates, words)?;
        let enough = words.is_empty() || common as f64 / words.len() as f64 >= rules.similarity;
        enough.then_some(at)
    }

    /// Of all templates of as many words the one that has the most in common with a message, if any has something.
    fn nearest(&self, words: &[SmolStr]) -> Option<usize> {
        let as_long = |at: &usize| self.templates[*at].words.len() == words.len();
        let as_long: Vec<usize> = (0..self.templates.len()).filter(as_long).collect();
        self.most_in_common(&as_long, words).filter(|(_, common)| *common > 0).map(|(at, _)| at)
    }

    fn most_in_common(&self, candidates: &[usize], words: &[SmolStr]) -> Option<(usize, usize)> {
        let common = |at: usize| self.templates[at].words.iter().zip(words).filter(|(own, word)| own == word).count();
        let measured = candidates.iter().map(|at| (common(*at), self.templates[*at].varying(), Reverse(*at)));
        measured.max().map(|(common, _, Reverse(at))| (at, common))
    }

    fn add(&mut self, words: Vec<SmolStr>, rules: &Rules) -> usize {
        let at = self.templates.len();
        let mut node = self.lengths.entry(words.len()).or_default();
        for word in words.iter().take(rules.words) {
            node = node.child(word, rules.children_max);
        }
        node.templates.push(at);
        self.templates.push(Template { words, count: 0 });
        at
    }
}

impl Node {
    fn child(&mut self, word: &SmolStr, children_max: usize) -> &mut Self {
        let has_place = self.children.len() < children_max || self.children.contains_key(word);
        if word == WILD || has_digit(word) || !has_place {
            return self.others.get_or_insert_default();
        }
        self.children.entry(word.clone()).or_default()
    }
}

impl Template {
    /// As text: its words with spaces between them.
    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }

    /// How many messages belong to it.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn varying(&self) -> usize {
        self.words.iter().filter(|word| *word == WILD).count()
    }

    /// Lets vary what is otherwise in a message of as many words; whether anything is.
    fn widen(&mut self, words: &[SmolStr]) -> bool {
        let mut changed = false;
        for (own, word) in self.words.iter_mut().zip(words) {
            if *own != *word && own.as_str() != WILD {
                *own = SmolStr::new_static(WILD);
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::mask::tests::covers;
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { words: 2, similarity: 0.5, children_max: 100, templates_max: 1000 };
    const MESSAGE: &str = "([ab]|[cd]7|[0-9.]{1,3}|k=[0-9]|µ)( ([abc]|[ab]1|[0-9]{1,2}|k=[0-9])){0,5}";

    /// Each message's template as it was right after the message.
    fn mine(miner: &mut Miner, rules: &Rules, messages: &[&str]) -> Vec<(usize, Effect, String)> {
        let mut found = Vec::new();
        for message in messages {
            let mined = miner.mine(message, rules);
            found.extend(mined.map(|(at, effect)| (at, effect, miner.template(at).text())));
        }
        found
    }

    #[test]
    fn messages_that_differ_in_what_varies_are_of_one_template() {
        let mut miner = Miner::default();
        let messages = [
            "login by alice from 10.0.0.1",
            "login by bob from 10.0.0.7",
            "disk /dev/sda1 is 97% full",
            "login by carol from ::1",
            "disk /dev/sdb2 is 3% full",
            "login by alice from 10.0.0.1",
        ];
        let (user, disk) = ("login by <*> from <*>".to_owned(), "disk <*> is <*>% full".to_owned());
        let expected = [
            (0, Effect::New, "login by alice from <*>".to_owned()),
            (0, Effect::Changed, user.clone()),
            (1, Effect::New, "disk /dev/sda1 is <*>% full".to_owned()),
            (0, Effect::Known, user.clone()),
            (1, Effect::Changed, disk),
            (0, Effect::Known, user),
        ];
        assert_eq!(mine(&mut miner, &RULES, &messages), expected);
        assert_eq!((miner.template(0).count(), miner.share(1)), (4, 2.0 / 6.0));
    }

    #[test]
    fn messages_of_other_lengths_of_other_first_words_or_with_too_little_in_common_are_of_others() {
        let mut miner = Miner::default();
        let messages = ["a b c d", "a b c", "a x c d", "a b y z", "a b y q w", "a b", "", "", "1 2 3 4", "5 6 7 8"];
        let found: Vec<usize> = mine(&mut miner, &RULES, &messages).into_iter().map(|(at, ..)| at).collect();
        assert_eq!(found, [0, 1, 2, 0, 3, 4, 5, 5, 6, 6]);
        assert_eq!(miner.template(0).text(), "a b <*> <*>");
        let strict = Rules { similarity: 0.75, ..RULES };
        assert_eq!(mine(&mut Miner::default(), &strict, &["a b c d", "a b y z"])[1].1, Effect::New);
    }

    #[test]
    fn words_for_which_there_is_no_place_in_the_tree_go_one_way() {
        let rules = Rules { children_max: 1, ..RULES };
        let messages = ["a is up now", "b is up now", "c is up now", "n7 is up now", "a is up then"];
        let found: Vec<usize> = mine(&mut Miner::default(), &rules, &messages).into_iter().map(|(at, ..)| at).collect();
        assert_eq!(found, [0, 1, 1, 1, 0]);
    }

    #[test]
    fn of_templates_with_as_much_in_common_the_general_one_is_taken() {
        let mut miner = Miner::default();
        mine(&mut miner, &Rules { similarity: 1.0, ..RULES }, &["go to a b"]);
        let messages = ["go to x y", "go to x z", "go to c d"];
        let found = mine(&mut miner, &Rules { similarity: 0.6, ..RULES }, &messages);
        assert_eq!(found.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [1, 1, 2]);
        // All three have `go to` in common with it.
        assert_eq!(mine(&mut miner, &RULES, &["go to e f"])[0].0, 1);
    }

    #[test]
    fn a_template_too_many_is_not_made_and_what_is_near_nothing_does_not_count() {
        let rules = Rules { templates_max: 2, ..RULES };
        let mut miner = Miner::default();
        mine(&mut miner, &rules, &["a b c d", "e f g h"]);
        assert_eq!(mine(&mut miner, &rules, &["x f x x"]), [(1, Effect::Changed, "<*> f <*> <*>".to_owned())]);
        assert_eq!((miner.mine("z z z z", &rules), miner.mine("a b c", &rules)), (None, None));
        assert_eq!(miner.share(0), 1.0 / 3.0);
    }

    proptest! {
        #[test]
        fn the_same_messages_give_the_same_templates_and_each_covers_its_message(
            messages in proptest::collection::vec(MESSAGE, 1..60),
            (words, similarity, children_max, templates_max) in (1..4_usize, 0.0..=1.0_f64, 1..4_usize, 1..20_usize),
        ) {
            let rules = Rules { words, similarity, children_max, templates_max };
            let (mut miner, mut again) = (Miner::default(), Miner::default());
            let mut of: Vec<(usize, &str)> = Vec::new();
            for message in &messages {
                let before = miner.clone();
                let found = miner.mine(message, &rules);
                prop_assert_eq!(found, again.mine(message, &rules));
                again = crate::pipelines::operator::load(&crate::pipelines::operator::save(&again)).unwrap();
                match found {
                    Some((at, effect)) => {
                        prop_assert_eq!(effect == Effect::New, at == before.templates.len());
                        let same = before.templates.get(at).is_some_and(|old| old.words == miner.templates[at].words);
                        prop_assert_eq!(effect == Effect::Known, same);
                        of.push((at, message.as_str()));
                    }
                    None => prop_assert_eq!(&miner, &before),
                }
            }
            prop_assert_eq!(&miner, &again);
            prop_assert!(miner.templates.len() <= templates_max);
            for (at, message) in &of {
                let template = miner.template(*at).text();
                prop_assert!(covers(&template, message), "{} for {}", template, message);
            }
            for (at, template) in miner.templates.iter().enumerate() {
                let own = of.iter().filter(|(of, _)| *of == at);
                prop_assert_eq!(template.count, own.map(|_| 1).sum::<u64>());
            }
            let shares: f64 = (0..miner.templates.len()).map(|at| miner.share(at)).sum();
            prop_assert!((shares - 1.0).abs() < 1e-9);
        }
    }
}
