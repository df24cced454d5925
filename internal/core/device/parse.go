package device

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"mooring/internal/base/errs"
)

// maxRow bounds one row of an import, so that a missing quotation mark cannot swallow a file into memory.
const maxRow = 64 << 10

// rawRow is a row of an import as it was written.
type rawRow struct {
	line                            int
	name, group, profile, birth, id string
	product                         Product
	tags                            map[string]string
	names                           []string
}

// rowReader yields the rows of an import. next returns io.EOF at the end; after a *rowError that is not final the
// next row can be asked for; any other error ends the reading.
type rowReader interface {
	next() (rawRow, error)
}

// rowError is what is wrong with one row.
type rowError struct {
	line  int
	text  string // public
	final bool   // where the next row begins is not known
}

func (e *rowError) Error() string { return e.text }

func newRowReader(format string, r io.Reader) (rowReader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	// Peek fails only at the end of a short file, which then has no mark.
	if head, _ := b.Peek(3); bytes.Equal(head, []byte("\xef\xbb\xbf")) {
		if _, err := b.Discard(3); err != nil {
			return nil, err
		}
	}
	switch format {
	case "csv":
		return newCSVRows(b)
	case "jsonl":
		return &jsonRows{in: b}, nil
	}
	return nil, errs.New(errs.Invalid, "unknown format %q: use csv or jsonl", format)
}

// csvRows reads RFC 4180 with a header line.
type csvRows struct {
	in      *csv.Reader
	bound   *rowBound
	columns []string
	line    int // where the last row began
}

// rowBound refuses to hand out more than maxRow octets between two rows; the csv package itself knows no bound.
type rowBound struct {
	in   io.Reader
	left int
}

var errRowTooLong = errors.New("the row is too long")

func (b *rowBound) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errRowTooLong
	}
	n, err := b.in.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

const columnNames = "name, group, profile, tags, names, birth, maker, serial, id"

func newCSVRows(in io.Reader) (*csvRows, error) {
	c := &csvRows{bound: &rowBound{in: in}}
	c.in = csv.NewReader(c.bound)
	c.in.FieldsPerRecord = -1
	c.in.ReuseRecord = true
	header, err := c.read()
	if errors.Is(err, io.EOF) {
		return nil, &rowError{1, "the file is empty: the first line must name the columns", true}
	}
	if err != nil {
		return nil, err
	}
	for _, h := range header {
		h = strings.ToLower(strings.TrimSpace(h))
		switch h {
		case "name", "group", "profile", "tags", "names", "birth", "maker", "serial", "id":
		default:
			return nil, &rowError{1, fmt.Sprintf("unknown column %s: the columns are %s, separated by commas", shown(h), columnNames), true}
		}
		if slices.Contains(c.columns, h) {
			return nil, &rowError{1, fmt.Sprintf("column %s: given twice", h), true}
		}
		c.columns = append(c.columns, h)
	}
	if !slices.Contains(c.columns, "name") {
		return nil, &rowError{1, "column name: required, but the first line does not name it", true}
	}
	return c, nil
}

func (c *csvRows) read() ([]string, error) {
	c.bound.left = maxRow
	record, err := c.in.Read()
	var syntax *csv.ParseError
	switch {
	case errors.Is(err, errRowTooLong):
		return nil, &rowError{c.line + 1, fmt.Sprintf("the row has more than %d octets; is a quotation mark missing?", maxRow), true}
	case errors.As(err, &syntax):
		// The csv package does not say where the next row begins after this, so reading ends here.
		return nil, &rowError{syntax.Line, "not CSV: " + syntax.Err.Error(), true}
	}
	if err == nil {
		c.line, _ = c.in.FieldPos(0)
	}
	return record, err
}

func (c *csvRows) next() (rawRow, error) {
	record, err := c.read()
	if err != nil {
		return rawRow{}, err
	}
	row := rawRow{line: c.line}
	if len(record) != len(c.columns) {
		return row, &rowError{row.line, fmt.Sprintf("%d fields, but the first line names %d columns", len(record), len(c.columns)), false}
	}
	for i, column := range c.columns {
		value := strings.TrimSpace(record[i])
		switch column {
		case "name":
			row.name = value
		case "group":
			row.group = value
		case "profile":
			row.profile = value
		case "birth":
			row.birth = value
		case "maker":
			row.product.Maker = value
		case "serial":
			row.product.Serial = value
		case "id":
			row.id = value
		case "names":
			row.names = splitList(value)
		case "tags":
			if row.tags, err = splitPairs(value); err != nil {
				return row, &rowError{row.line, "column tags: " + err.Error(), false}
			}
		}
	}
	return row, nil
}

func splitList(value string) []string {
	if value == "" {
		return nil
	}
	list := strings.Split(value, ";")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

func splitPairs(value string) (map[string]string, error) {
	if value == "" {
		return nil, nil
	}
	tags := make(map[string]string)
	for _, pair := range splitList(value) {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%s: must be key=value, several separated by ;", shown(pair))
		}
		if _, twice := tags[k]; twice {
			return nil, fmt.Errorf("key %s: given twice", shown(k))
		}
		tags[k] = v
	}
	return tags, nil
}

// jsonRows reads JSON Lines: one object a line, empty lines left out.
type jsonRows struct {
	in   *bufio.Reader
	line int
}

type jsonRow struct {
	Name    string            `json:"name"`
	Group   string            `json:"group"`
	Profile string            `json:"profile"`
	Tags    map[string]string `json:"tags"`
	Names   []string          `json:"names"`
	Birth   string            `json:"birth"`
	Maker   string            `json:"maker"`
	Serial  string            `json:"serial"`
	ID      string            `json:"id"`
}

func (j *jsonRows) next() (rawRow, error) {
	for {
		text, err := j.in.ReadSlice('\n')
		if len(text) == 0 && err != nil {
			return rawRow{}, err
		}
		j.line++
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // the buffer holds maxRow octets
			return rawRow{}, &rowError{j.line, fmt.Sprintf("the row has more than %d octets", maxRow), true}
		case err != nil && !errors.Is(err, io.EOF):
			return rawRow{}, err
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			return j.decode(text)
		}
	}
}

func (j *jsonRows) decode(text []byte) (rawRow, error) {
	var r jsonRow
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&r); err != nil {
		return rawRow{line: j.line}, &rowError{j.line, jsonProblem(err), false}
	}
	if in.InputOffset() != int64(len(text)) {
		return rawRow{line: j.line}, &rowError{j.line, "more than one JSON object on the line", false}
	}
	return rawRow{line: j.line, name: r.Name, group: r.Group, profile: r.Profile, birth: r.Birth, product: Product{r.Maker, r.Serial}, id: r.ID, tags: r.Tags, names: r.Names}, nil
}

func jsonProblem(err error) string {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return fmt.Sprintf("field %s: a JSON %s is not what belongs here", kind.Field, kind.Value)
	}
	if unknown, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return "unknown field " + unknown + ": the fields are " + columnNames
	}
	return "not a JSON object: " + strings.TrimPrefix(err.Error(), "json: ")
}

// parse turns a row into what is stored. Its errors begin with the column.
func (s *importing) parse(row rawRow) (record, error) {
	if row.group == "" {
		row.group = s.src.Group
	}
	if row.profile == "" {
		row.profile = s.src.Profile
	}
	c := record{name: row.name, group: row.group, profile: row.profile}
	if err := checkName(c.name); err != nil {
		return c, err
	}
	if err := checkGroup(c.group); err != nil {
		return c, err
	}
	if err := s.checkProfile(c.profile); err != nil {
		return c, err
	}
	if err := checkTags(row.tags); err != nil {
		return c, err
	}
	c.tags = joinTags(row.tags)
	if len(row.names) > 0 {
		names, err := cleanNames(row.names)
		if err != nil {
			return c, err
		}
		c.names = joinNames(names)
		s.granting = s.granting || s.r.owns(names)
	}
	if err := row.product.Check(); err != nil {
		return c, err
	}
	c.product = row.product.join()
	s.granting = s.granting || s.r.isOwn("dns:"+c.name)
	return c, c.setBirth(row.birth)
}

// setBirth takes the SHA-256 of a birth certificate, or the certificate itself, in PEM or as DER in base64.
func (c *record) setBirth(text string) (err error) {
	if text == "" {
		return nil
	}
	if len(text) == 2*sha256.Size {
		if c.birth, err = hex.DecodeString(text); err == nil {
			return nil
		}
	}
	var raw []byte
	if block, rest := pem.Decode([]byte(text)); block != nil && block.Type == "CERTIFICATE" && len(bytes.TrimSpace(rest)) == 0 {
		raw = block.Bytes
	} else if raw, err = base64.StdEncoding.DecodeString(text); err != nil || len(text) < 100 {
		return errs.New(errs.Invalid, "birth: must be the SHA-256 of the certificate, 64 hexadecimal digits, or the certificate itself in PEM or base64")
	}
	cert, err := checkBirth(raw)
	if err != nil {
		return err
	}
	print, spki := sha256.Sum256(raw), sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	c.birth, c.birthSPKI, c.birthUntil = print[:], spki[:], cert.NotAfter.Unix()
	return nil
}

// checkProfile asks once for each profile of the file.
func (s *importing) checkProfile(profile string) error {
	p, known := s.profiles[profile]
	if !known {
		p.err = s.r.checkProfile(profile)
		p.grants = p.err == nil && s.r.grants(profile)
		if len(s.profiles) < 1000 { // a file of nothing but unknown profiles must not fill the memory
			s.profiles[profile] = p
		}
	}
	s.granting = s.granting || p.grants
	return p.err
}
