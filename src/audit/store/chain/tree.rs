//! The Merkle tree of RFC 9162 (2.1) over the hashes of a log. It keeps the roots of the complete subtrees
//! alone: as many as the number of leaves has bits.

use ring::digest::{Context, SHA256};

use super::Hash;

#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    size: u64,
    /// Largest first.
    subtrees: Vec<Hash>,
}

impl Tree {
    pub(super) fn push(&mut self, leaf: &Hash) {
        let mut node = digest(&[&[0], leaf]);
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                node = digest(&[&[1], &left, &node]);
            }
        }
        self.subtrees.push(node);
        self.size += 1;
    }

    pub(super) fn root(&self) -> Hash {
        let mut right_to_left = self.subtrees.iter().rev();
        let Some(last) = right_to_left.next() else { return digest(&[]) };
        right_to_left.fold(*last, |right, left| digest(&[&[1], left, &right]))
    }
}

pub(super) fn digest(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 9162 defines it.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => digest(&[]),
            [leaf] => digest(&[&[0], leaf]),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                digest(&[&[1], &by_definition(left), &by_definition(right)])
            }
        }
    }

    #[test]
    fn the_root_is_that_of_rfc_9162() {
        let leaves: Vec<Hash> = (0..70).map(|number| [number; 32]).collect();
        let mut tree = Tree::default();
        for size in 0..leaves.len() {
            assert_eq!(tree.root(), by_definition(&leaves[..size]), "{size}");
            tree.push(&leaves[size]);
        }
    }
}
