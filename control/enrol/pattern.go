package enrol

import (
	"fmt"
	"slices"
	"strings"

	"github.com/intramesh/mesh/control/internal/names"
)

// match is how rules match values: exactly, by a prefix "a*", a suffix "*a", or anything with "*". rest is what the
// star stands for.
func match(pattern, s string) (rest string, ok bool) {
	if p, star := strings.CutSuffix(pattern, "*"); star {
		return strings.CutPrefix(s, p)
	}
	if p, star := strings.CutPrefix(pattern, "*"); star {
		return strings.CutSuffix(s, p)
	}
	return "", pattern == s
}

func matchAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		_, ok := match(p, s)
		return ok
	})
}

// checkPattern refuses a pattern that no service can match, or a reserved name.
func checkPattern(p string) error {
	if p == "*" {
		return nil
	}
	probe := p
	if start, star := strings.CutSuffix(p, "*"); star {
		probe = start + "x"
	} else if end, star := strings.CutPrefix(p, "*"); star {
		probe = "x" + end
	}
	if err := names.CheckOrdinary(probe); err != nil {
		return fmt.Errorf("pattern %q: %w", p, err)
	}
	return nil
}
