package conf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"mooring/internal/base/errs"
)

// Parse reads a configuration file's content; name stands in the messages. The error is of kind Invalid and holds every problem found,
// one a line, as "mooring.yaml:7: unknown key …".
func Parse(name string, data []byte) (*Config, error) {
	c, _, err := parse(name, data)
	return c, err
}

// parse is Parse, and says on which line each key stands.
func parse(name string, data []byte) (*Config, map[string]int, error) {
	r := &reader{file: name, config: Default(), lines: map[string]int{}}
	r.entries = r.config.table()
	r.groups = groups()
	r.read(data)
	if len(r.problems) == 0 {
		r.crossCheck()
	}
	if err := r.err(); err != nil {
		return nil, nil, err
	}
	return r.config, r.lines, nil
}

type reader struct {
	file     string
	config   *Config
	entries  []entry
	groups   map[string]string
	lines    map[string]int // key → line it stands on
	problems []problem
}

type problem struct {
	line int
	text string
}

func (r *reader) complain(line int, format string, args ...any) {
	r.problems = append(r.problems, problem{line, fmt.Sprintf(format, args...)})
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	sort.SliceStable(r.problems, func(i, j int) bool { return r.problems[i].line < r.problems[j].line })
	lines := make([]string, len(r.problems))
	for i, p := range r.problems {
		lines[i] = r.file + ": " + p.text
		if p.line > 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", r.file, p.line, p.text)
		}
	}
	return errs.New(errs.Invalid, "%s", strings.Join(lines, "\n"))
}

func (r *reader) read(data []byte) {
	if len(data) > maxFile {
		r.complain(0, "is larger than %d octets", maxFile)
		return
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		r.syntax(err)
		return
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			r.complain(lineOf(doc.Body), "a second document starts here: the file must be one")
			return
		}
		body = doc.Body
	}
	r.group("", body)
}

// syntax reports what the YAML parser stumbled over, without its picture of the source, which may show a secret written there by mistake.
func (r *reader) syntax(err error) {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil {
		r.complain(0, "is not YAML")
		return
	}
	r.complain(y.GetToken().Position.Line, "is not YAML: %s", y.GetMessage())
}

func (r *reader) group(prefix string, node ast.Node) {
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return // nothing said: all defaults
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		where := "the file"
		if prefix != "" {
			where = strings.TrimSuffix(prefix, ".")
		}
		r.complain(lineOf(node), "%s wants keys below it, as in \"%s\", not %s", where, r.children(prefix)[0]+": …", article(node))
		return
	}
	for _, pair := range pairs {
		r.pair(prefix, pair)
	}
}

func (r *reader) pair(prefix string, pair *ast.MappingValueNode) {
	line := lineOf(pair.Key)
	name, ok := pair.Key.(*ast.StringNode)
	if !ok {
		r.complain(line, "the key %q is not a plain word", pair.Key.GetToken().Value)
		return
	}
	key := prefix + name.Value
	if _, isGroup := r.groups[key]; isGroup {
		r.group(key+".", pair.Value)
		return
	}
	i := slices.IndexFunc(r.entries, func(e entry) bool { return e.key == key })
	if i < 0 {
		r.complain(line, "unknown key %q%s", key, r.suggest(prefix, name.Value))
		return
	}
	r.lines[key] = line
	if err := r.entries[i].set(pair.Value); err != nil {
		r.complain(line, "%s %v", key, err)
	}
}

// set reads node into the entry's field after checking that it is written in the right form.
func (e entry) set(node ast.Node) error {
	switch n := node.(type) {
	case *ast.StringNode:
		if e.value.form == asText || e.value.form == asBare {
			return e.value.parse(n.Value)
		}
	case *ast.LiteralNode:
		if e.value.form == asText {
			return e.value.parse(strings.TrimSuffix(n.Value.Value, "\n"))
		}
	case *ast.IntegerNode:
		if e.value.form == asNumber {
			return e.value.parse(n.Token.Value)
		}
	case *ast.BoolNode:
		if e.value.form == asTruth {
			return e.value.parse(n.Token.Value)
		}
	case *ast.SequenceNode:
		if e.value.form == asList {
			return e.setList(n)
		}
	}
	return fmt.Errorf("wants %s, such as %s, not %s", e.value.wanted(), e.value.write(e.example), article(node))
}

// wanted names the kind in a sentence.
func (v value) wanted() string {
	if strings.Contains(v.kind, " | ") {
		return strings.ReplaceAll(v.kind, " | ", " or ")
	}
	return "a " + v.kind
}

func (e entry) setList(n *ast.SequenceNode) error {
	items := make([]string, len(n.Values))
	for i, item := range n.Values {
		s, ok := item.(*ast.StringNode)
		if !ok || strings.Contains(s.Value, ",") {
			return fmt.Errorf("wants texts in its list, not %s", article(item))
		}
		items[i] = s.Value
	}
	return e.value.parse(strings.Join(items, ","))
}

// article names what node is, for people.
func article(node ast.Node) string {
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode:
		return "the number " + n.GetToken().Value
	case *ast.BoolNode:
		return n.Token.Value
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		return "an anchor, alias or tag"
	}
	return "a " + strings.ToLower(node.Type().String())
}

func lineOf(node ast.Node) int {
	if t := node.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// children returns the names that may stand directly below prefix.
func (r *reader) children(prefix string) []string {
	var names []string
	for _, e := range r.entries {
		rest, ok := strings.CutPrefix(e.key, prefix)
		if name, _, _ := strings.Cut(rest, "."); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// suggest returns a hint to the known name that is nearest to an unknown one, if one is near.
func (r *reader) suggest(prefix, name string) string {
	best, least := "", 1+max(1, len(name)/3)
	for _, child := range r.children(prefix) {
		if d := distance(name, child); d < least {
			best, least = prefix+child, d
		}
	}
	if best == "" {
		return ": known here are " + strings.Join(r.children(prefix), ", ")
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the number of letters to insert, drop, replace or swap with their neighbour to make b of a.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// crossCheck looks at keys that must fit each other. Each complaint stands at the line of the key to change.
func (r *reader) crossCheck() {
	c := r.config
	r.ports([]string{"listen.est", "listen.api", "listen.status"}, []string{c.Listen.EST, c.Listen.API, c.Listen.Status})
	if c.CRL.Refresh >= c.CRL.Validity {
		r.complain(r.line("crl.refresh", "crl.validity"), "crl.refresh (%s) must be shorter than crl.validity (%s), or lists expire before the next is there",
			FormatDuration(c.CRL.Refresh), FormatDuration(c.CRL.Validity))
	}
	if c.Limits.AddressConns > c.Limits.Connections {
		r.complain(r.line("limits.connections_per_address", "limits.connections"), "limits.connections_per_address (%d) is more than limits.connections (%d)",
			c.Limits.AddressConns, c.Limits.Connections)
	}
	if c.Limits.RequestBurst < c.Limits.RequestRate {
		r.complain(r.line("limits.request_burst", "limits.requests_per_second"), "limits.request_burst (%d) is less than limits.requests_per_second (%d)",
			c.Limits.RequestBurst, c.Limits.RequestRate)
	}
	if u, err := url.Parse(c.ESTURL()); err == nil && !slices.ContainsFunc(c.Names, func(n string) bool { return strings.EqualFold(n, u.Hostname()) }) {
		r.complain(r.line("public_urls.est", "names"), "public_urls.est has the host %q, which is not in names: the server's certificate would not fit it; add it to names", u.Hostname())
	}
	r.token()
	if c.Database.PasswordFile != "" && strings.HasPrefix(c.Database.URL, "sqlite:") {
		r.complain(r.line("database.password_file"), "database.password_file has no use with SQLite: remove it, or give a postgres:// database.url")
	}
}

// token looks at what a PKCS #11 token takes: everything or nothing.
func (r *reader) token() {
	t, set := r.config.Keys.PKCS11, 0
	missing := []string{}
	for _, f := range []struct{ key, value string }{{"keys.pkcs11.module", t.Module}, {"keys.pkcs11.token", t.Token}, {"keys.pkcs11.pin_file", t.PINFile}} {
		if f.value != "" {
			set++
		} else {
			missing = append(missing, f.key)
		}
	}
	switch {
	case set == 0 && r.config.Keys.Custody == "pkcs11":
		r.complain(r.line("keys.custody"), "keys.custody is pkcs11, which takes %s", strings.Join(missing, ", "))
	case set > 0 && len(missing) > 0:
		r.complain(r.line("keys.pkcs11.module", "keys.pkcs11.token", "keys.pkcs11.pin_file"), "a PKCS #11 token takes %s too", strings.Join(missing, " and "))
	case set > 0 && !filepath.IsAbs(t.Module):
		r.complain(r.line("keys.pkcs11.module"), "keys.pkcs11.module %q is not an absolute path", t.Module)
	}
}

// line returns the line of the first of keys that the file has, or 0.
func (r *reader) line(keys ...string) int {
	for _, k := range keys {
		if n := r.lines[k]; n > 0 {
			return n
		}
	}
	return 0
}

func (r *reader) ports(keys, addresses []string) {
	for i, a := range addresses {
		for j := range i {
			if collide(a, addresses[j]) {
				r.complain(r.line(keys[i], keys[j]), "%s and %s both want %s: give each its own port", keys[j], keys[i], a)
			}
		}
	}
}

// collide reports whether two addresses, already checked, cannot both be bound. Port 0 is a fresh port each time.
func collide(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && strings.Trim(portA, "0") != "" && (hostA == hostB || anyHost(hostA) || anyHost(hostB))
}

func anyHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}
