package audit

import "golang.org/x/mod/sumdb/tlog"

// rebuild computes a tree from its leaves in order, keeping only the unfinished tile of each level. It shares no code with the sequencer's
// growth, so that Verify does not repeat a mistake of the other.
type rebuild struct {
	size   int64
	levels [][]tlog.Hash // the unfinished tile of each level
	done   []int64       // the finished tiles of each level
	finish func(level int, n int64, hashes []tlog.Hash) error
}

func (r *rebuild) add(leaf tlog.Hash) error {
	r.size++
	return r.push(0, leaf)
}

func (r *rebuild) push(level int, h tlog.Hash) error {
	if level == len(r.levels) {
		r.levels = append(r.levels, make([]tlog.Hash, 0, tileWidth))
		r.done = append(r.done, 0)
	}
	r.levels[level] = append(r.levels[level], h)
	if len(r.levels[level]) < tileWidth {
		return nil
	}
	tile := r.levels[level]
	if err := r.finish(level, r.done[level], tile); err != nil {
		return err
	}
	top := fold(tile)
	r.levels[level] = tile[:0]
	r.done[level]++
	return r.push(level+1, top)
}

// end hands the unfinished tiles over.
func (r *rebuild) end() error {
	for level, tile := range r.levels {
		if len(tile) == 0 {
			continue
		}
		if err := r.finish(level, r.done[level], tile); err != nil {
			return err
		}
	}
	return nil
}

// count returns how many tiles level has, the unfinished one included.
func (r *rebuild) count(level int) int64 {
	if len(r.levels[level]) > 0 {
		return r.done[level] + 1
	}
	return r.done[level]
}

// root returns the root of the present tree (RFC 6962, section 2.1): the complete subtrees, from the smallest on the right to the largest on
// the left, joined.
func (r *rebuild) root() tlog.Hash {
	var root tlog.Hash
	joined := false
	for _, tile := range r.levels {
		for rest := tile; len(rest) > 0; {
			width := len(rest) & -len(rest) // the lowest bit: the rightmost complete subtree
			h := fold(rest[len(rest)-width:])
			if joined {
				h = tlog.NodeHash(h, root)
			}
			root, joined = h, true
			rest = rest[:len(rest)-width]
		}
	}
	return root
}

// fold returns the root over hashes, whose number is a power of two.
func fold(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(fold(hashes[:half]), fold(hashes[half:]))
}
