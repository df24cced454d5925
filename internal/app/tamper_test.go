package app_test

import (
	"crypto/tls"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	agentacme "mooring/agent/acme"
	agentv2x "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/message/policy"
	"mooring/internal/core/revoke"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/acme"
	"mooring/wire/butterfly"
	"mooring/wire/der"
)

// TestTampering changes one value after the other in a copy of a small installation's database, in every column of every table, and wants a
// verification to name each. What it does not name is listed here with the reason.
func TestTampering(t *testing.T) {
	ofFiles(t)
	dir := smallLife(t)
	victim := &tampered{test: t, dir: copyOf(t, dir), original: dir}
	victim.open(t)
	defer victim.close(t)
	if report := victim.verify(t); len(report) > 0 {
		t.Fatalf("before anything was changed: %v", report)
	}
	used := map[string]bool{}
	for _, c := range victim.columns(t) {
		t.Run(c.String(), func(t *testing.T) {
			key, excuse := unnamed(c)
			used[key] = true
			all := excuse.reason != "" && excuse.where == ""
			found, ok := victim.change(t, c, excuse.where)
			switch {
			case !ok && excuse.empty:
			case !ok:
				t.Errorf("table %s is empty: the life is too small to show anything", c.table)
			case len(found) == 0 && !all:
				t.Errorf("nobody noticed")
			case len(found) > 0 && all:
				t.Errorf("this is named after all, so the excuse %q can go: %v", excuse.reason, found)
			case len(found) > 0 && !names(c.table).MatchString(strings.Join(found, "\n")):
				t.Errorf("what is found does not name the table: %v", found)
			}
		})
	}
	for key := range exceptions() {
		if !used[key] {
			t.Errorf("the excuse for %s excuses nothing", key)
		}
	}
}

// exception is why a change is not named: always, or in the rows that where (SQL) describes.
type exception struct {
	reason, where string
	empty         bool // there is nothing in it on SQLite
}

// exceptions are the columns that may be changed without a verification naming it.
func exceptions() map[string]exception {
	excuses := map[string]exception{"acme_nonce.*": {"what was used of what strangers are given; on SQLite it is in memory", "", true},
		"v2x_enrolment.*":  {"answers for who sends the same request again; they leave after a while", "", false},
		"v2x_validation.*": {"for who sends the same request again; the record holds no digest of it, which would join a ticket to its vehicle", "", false},
		"broker_outbox.*":  {"whom brokers of others have still to let go of; it leaves when they have confirmed", "", true},
		"sink_cursor.*":    {"how far sinks are: what is passed on twice or not is no fact of the platform", "", true},
		"sink_dead.*":      {"messages that sinks could not pass on", "", true},
		"message_node.*":   {"which processes carry messages: a wrong row has wills said early or late", "", true}}
	for key, e := range excusesInRows() {
		excuses[key] = exception{e[0], e[1], false}
	}
	return excuses
}

// excusesInRows are reasons, and the rows that they are good for.
func excusesInRows() map[string][2]string {
	const times = "a time for people; what it tells of stands in the record with its own"
	const foreign = "of a birth certificate that others issued only the fingerprint is recorded; these two are for people"
	const order = "where an order stands; a certificate comes of it only through the funnel, which looks at the account and the names that were shown, and they are compared"
	const leaving = "the pieces of a list before the newest leave, a few at a time and the first ones first: what is left of it may begin anywhere"
	const private = "how many tickets a vehicle has when is not in the record, for its driver's privacy"
	const old = "number < (SELECT MAX(number) FROM crl_chunk AS n WHERE n.cell = crl_chunk.cell AND n.issuer = crl_chunk.issuer AND n.shard = crl_chunk.shard)"
	return map[string][2]string{
		"v2x_waiting.since":    {"when a ticket began to wait: it is asked for sooner or later", ""},
		"v2x_waiting.answer":   {"a message that is signed by another authority and encrypted to a vehicle, which takes no other", ""},
		"v2x_station.turn":     {"a lock's counter: its value means nothing", ""},
		"v2x_interval.start":   {private, ""},
		"v2x_interval.ends":    {private, ""},
		"v2x_interval.tickets": {private, ""},
		"crl_chunk.cell":       {leaving, old},
		"crl_chunk.issuer":     {leaving, old},
		"crl_chunk.shard":      {leaving, old},
		"crl_chunk.number":     {leaving, old},
		"crl_chunk.seq":        {leaving, old},
		"acme_account.binding": {"shown to its account again; what it bound is compared", ""},
		"acme_account.created": {times, ""},
		"acme_account.used":    {times, ""},
		"acme_order.state":     {order, ""},
		"acme_order.csr":       {order + "; a person approves one request, and another one waits again", ""},
		"acme_order.serial":    {order, ""},
		"acme_order.cert":      {order, ""},
		"acme_order.replaces":  {order, ""},
		"acme_order.created":   {times, ""},
		"acme_order.expires":   {order, ""},
		"version.*":            {"the migrations' own, of the program and not of the fleet", ""},
		"lease.*":              {"who works now: a wrong row delays work, and the next holder writes it anew", ""},
		"anchor_seen.*":        {"not recorded on purpose: what was seen of devices, which decides nothing and comes again", ""},
		"last_seen.*":          {"not recorded on purpose: it changes all the time and decides nothing", ""},
		"stream.node":          {"names a process for people", ""},
		"stream.checked":       {"counts questions, so that asking is a write; its value means nothing", ""},
		"stream.closed":        {"whether more may come: batches that come all the same are seen as such", ""},
		"stream.stream":        {"nothing was recorded under it", "stream NOT IN (SELECT stream FROM audit_batch)"},
		"stream.next":          {"may run ahead of the record: a change without an entry takes a number as well", ""},
		"crl_scope.number":     {"may run ahead of the lists: a number that was reserved and not used is lost", ""},
		"device.policy":        {"guards against overtaken decisions; what was decided under it is compared", ""},
		"device.created":       {times, ""},
		"device.updated":       {times, ""},
		"profile_version.seen": {times, ""},
		"campaign.filled":      {"how far the search for a campaign's devices has come", ""},
		"campaign.cursor":      {"how far the search for a campaign's devices has come", ""},
		"campaign_device.*":    {"notes of where devices stand; what becomes of them, a certificate or a revocation, is recorded by those who do it", ""},
		"campaign_count.*":     {"sums over these notes", ""},
		"inventory.*":          {"a copy for searching; what it finds is looked up in the registry before it is shown, and it is made anew from there", ""},
		"inventory_state.*":    {"how far that copy has got", ""},
		"inventory_node.*":     {"which processes keep that copy", ""},
		"unconfirmed.*":        {"who waits for a device's word about its certificate; what follows, a confirmation or a revocation, is recorded", ""},
		"job_chunk.*":          {"items of a job that has ended go away by themselves", "job IN (SELECT id FROM job WHERE kept = 0)"},
		"slot.request":         {"only lets a device have its own certificate again, which is compared itself", ""},
		"slot.not_after":       {foreign, "serial = x''"},
		"slot.spki":            {foreign, "serial = x''"},
	}
}

// unnamed returns the exception for c and under which key it stands.
func unnamed(c column) (key string, e exception) {
	table := c.table
	if strings.HasPrefix(table, "version_") {
		table = "version"
	}
	for _, key := range []string{table + ".*", c.String()} {
		if e, ok := exceptions()[key]; ok {
			return key, e
		}
	}
	return "", exception{}
}

// names is how findings speak of a table.
func names(table string) *regexp.Regexp {
	special := map[string]string{"ca_issuer": `ca: CA "`, "cert": `certificate [0-9a-f]{32}`, "cert_long": `certificate [0-9a-f]{32}`, "profile_version": `profile version`, "revoked": `revoked|revocation`, "crl": `CRL`, "crl_chunk": `octets of the CRL`, "crl_delta": `delta CRL`, "crl_scope": `crl_scope`,
		"audit_pos": `audit_pos|position`, "device": `device: device [0-9a-f]{32}`, "slot": `slot [0-9a-f]{32}/|birth certificate was changed`, "birth": `birth [0-9a-f]{64}`, "request": `table request`}
	if text, ok := special[table]; ok {
		return regexp.MustCompile(text)
	}
	return regexp.MustCompile(table)
}

func withDeltas(c *conf.Config) {
	onSQLite(c)
	c.CRL.Delta = true
}

// smallLife runs a platform through everything that leaves a row somewhere, stops it, and returns its directory. The entries of its first days have left.
func smallLife(t *testing.T) string {
	p := apptest.Start(t, func(c *conf.Config) {
		withDeltas(c)
		c.Retention.Audit = audit.MinKeep
		c.Listen.ACME = freeAddress(t)
		c.PublicURLs.ACME = "https://" + c.Listen.ACME
	}, apptest.Variant("device", "approved", "approval: required"), apptest.Variant("gateway", "orders", "evidence: [account]", "acme: trust-account"))
	p.Enrolled(t, "old", "device")
	p.Clock.Move(audit.MinKeep + 32*24*time.Hour)
	if left, err := p.Audit.Drop(t.Context(), apptest.Operator()); err != nil || left.Entries == 0 {
		t.Fatalf("%+v left, %v", left, err)
	}
	live(t, p)
	lifeOfAccounts(t, p)
	lifeOfVehicles(t, p)
	p.Record(t)
	dir := p.Config.Dir
	p.Stop(t)
	return dir
}

// lifeOfAccounts has a device order by ACME.
func lifeOfAccounts(t *testing.T, p *apptest.Platform) {
	d := p.Add(t, device.Spec{Name: "gateway-1", Profile: "orders", Names: []string{"dns:gateway-1.test"}})
	client := &agentacme.Client{Directory: p.Addresses().ACME + "/acme/directory", Key: apptest.Key(t), Now: p.Clock.Now,
		HTTP: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Pool(), ServerName: "localhost", Time: p.Clock.Now}}}}
	must(t, client.Register(t.Context(), &agentacme.Binding{Name: "gateway-1", Token: p.Token(t, d.ID)}))
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{Names: der.AltNames{DNS: []string{"gateway-1.test"}}})
	_, err := client.Obtain(t.Context(), acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: "gateway-1.test"}}}, csr, &agentacme.HTTPSolver{})
	must(t, err)
	client.HTTP.CloseIdleConnections()
}

// lifeOfVehicles makes the authorities of V2X and starts the platform with them: one vehicle has a ticket, and its credential is revoked then, one authority waits for its
// certificate, and one is revoked.
func lifeOfVehicles(t *testing.T, p *apptest.Platform) {
	ctx := t.Context()
	c := p.Config
	p.Stop(t)
	c.Listen.V2XEA, c.Listen.V2XValidation, c.Listen.V2XAA, c.Listen.V2XDC = freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	c.V2X.CPOCURL = "http://cpoc.test"
	c.V2X.Butterfly = conf.Butterfly{On: true, Period: 7 * 24 * time.Hour, Tickets: 2, Ahead: 1, Stations: 2, Wait: 84 * time.Hour}
	made, err := app.MakeV2X(ctx, app.Options{Config: c, Keys: p.Made.Keys, Now: p.Clock.Now, Log: p.Log.Logger()}, "Test")
	must(t, err)
	p.Restart(t)
	v := &v2xPlatform{Platform: p.Platform, made: made, clock: p.Clock}
	canonical, _ := v.vehicle(t, "vehicle")
	client := v.client(t)
	ec, err := client.Enrol(ctx, "vehicle", canonical)
	must(t, err)
	_, err = client.Ticket(ctx, ec, agentv2x.Order{})
	must(t, err)
	_, err = p.V2X.EA.RevokeCredential(ctx, apptest.Operator(), credentialID(t, ec))
	must(t, err)
	lifeOfButterflies(t, v)
	request, err := p.V2X.Trust.Apply(ctx, apptest.Operator(), trust.AA, "Second AA")
	must(t, err)
	second, err := p.V2X.Trust.Issue(ctx, apptest.Operator(), request, trust.Grant{Role: trust.AA, URL: "http://second.test"})
	must(t, err)
	must(t, p.V2X.Trust.Move(ctx, apptest.Operator(), second.ID, "http://third.test", ""))
	must(t, p.V2X.Trust.Revoke(ctx, apptest.Operator(), second.ID))
	lifeOfManager(t, v)
}

// lifeOfManager has a trust list manager with a root that is followed by another one, and with one that was taken off its list.
func lifeOfManager(t *testing.T, v *v2xPlatform) {
	ctx, who := t.Context(), apptest.Operator()
	_, err := v.V2X.Trust.CreateManager(ctx, who, "TLM")
	must(t, err)
	_, err = v.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: v.made.Certificate, URL: "http://dc.test"})
	must(t, err)
	next, err := v.V2X.Trust.RekeyRoot(ctx, who, "")
	must(t, err)
	_, err = v.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: next.Octets, URL: "http://dc.test"})
	must(t, err)
	_, err = v.V2X.Trust.RekeyManager(ctx, who, "")
	must(t, err)
	must(t, v.V2X.Trust.Expel(ctx, who, v.made.Root))
}

// lifeOfButterflies has two vehicles get tickets by butterfly keys, and a third one, whose tickets wait for those of another one.
func lifeOfButterflies(t *testing.T, v *v2xPlatform) {
	one, two := v.car(t, "butterfly-1"), v.car(t, "butterfly-2")
	first := one.order(t, butterfly.Original)
	second := two.order(t, butterfly.Original)
	one.fetch(t, first, first.First)
	two.fetch(t, second, second.First)
	v.car(t, "butterfly-3").order(t, butterfly.Unified)
}

// live runs a platform through everything that leaves a row somewhere.
func live(t *testing.T, p *apptest.Platform) {
	ctx := t.Context()
	born := p.Add(t, device.Spec{Name: "born", Names: []string{"dns:born.test"}, Group: "hall-1", Tags: map[string]string{"model": "m1"}, Profile: "device", Birth: p.OperatorCert(t).Certificate[0]})
	p.Token(t, born.ID)
	kept, first := p.Enrolled(t, "kept", "device")
	_, err := p.Enrol.Submit(ctx, enrol.Request{Protocol: "est", Op: enrol.Renew, Chain: first.Certificate, CSR: apptest.CSR(t, apptest.Key(t),
		der.RequestSpec{RawSubject: first.Leaf.RawSubject, Names: der.AltNames{URI: []string{first.Leaf.URIs[0].String()}}})})
	must(t, err)
	p.Devices.Seen(kept.ID, p.Clock.Now().Unix())
	p.Devices.SawAnchor(kept.ID, device.Anchor{1}, device.Delivered, p.Clock.Now().Unix())
	lifeOfMakers(t, p)
	lifeOfMASA(t, p)
	_, err = p.Message.SetPolicy(ctx, apptest.Operator(), policy.DefaultText(), 0)
	must(t, err)
	p.Enrolled(t, "for-life", "birth")
	p.Enrolled(t, "always-online", "device-short")
	_, gone := p.Enrolled(t, "gone", "device")
	_, err = p.Revoke.Certificate(ctx, apptest.Operator(), gone.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
	must(t, err)
	for name, moves := range map[string][]device.Move{"held": {device.Suspend}, "back": {device.Suspend, device.Resume}, "lost": {device.Lose}} {
		d, _ := p.Enrolled(t, name, "device")
		for _, m := range moves {
			_, err := p.Revoke.Device(ctx, apptest.Operator(), d.ID, m, revoke.Unspecified)
			must(t, err)
		}
	}
	for i, decision := range []string{"waits", "approved", "refused", "issued"} {
		name := "asks-" + decision
		d, token := p.Device(t, name, "approved")
		r := enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: name, Secret: token, CSR: apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}})}
		_, err := p.Enrol.Submit(ctx, r)
		must(t, err)
		if i == 0 {
			continue
		}
		_, err = p.Enrol.Decide(ctx, apptest.Operator(), d.Name, "", decision != "refused")
		must(t, err)
		if decision == "issued" {
			_, err = p.Enrol.Submit(ctx, r)
			must(t, err)
		}
	}
	_, token := p.Device(t, "unconfirmed", "device")
	_, err = p.Enrol.Submit(ctx, enrol.Request{Protocol: "cmp", Op: enrol.Enrol, Basic: true, User: "unconfirmed", Secret: token, CSR: apptest.CSR(t, apptest.Key(t), der.RequestSpec{}),
		Confirm: enrol.Awaiting{Transaction: []byte("t"), Within: time.Hour}})
	must(t, err)
	lifeOfJobs(t, p, first.Leaf.SerialNumber.Bytes())
	lifeOfCampaign(t, p)
	for _, issuer := range []string{"devices", "root"} {
		i, err := p.CA.Issuer(issuer)
		must(t, err)
		_, err = p.Revoke.CRL(ctx, i.ID(), ca.Complete)
		must(t, err)
		if i.Shards() > 0 {
			_, err = p.Revoke.Delta(ctx, i.ID(), i.Shard(gone.Leaf.SerialNumber.Bytes()))
			must(t, err)
		}
	}
	otherCAs(t, p)
}

// tampered is an installation whose database is changed behind its back.
type tampered struct {
	test          *testing.T // to whose end a copy lives
	dir, original string
	platform      *app.Platform
	behind        *sql.DB
}

func (v *tampered) open(t *testing.T) {
	t.Helper()
	var err error
	v.platform, err = load(t.Context(), v.dir, app.Open)
	must(t, err)
	v.behind, err = sql.Open("sqlite", "file:"+filepath.Join(v.dir, "mooring.db")+"?_pragma=busy_timeout(5000)")
	must(t, err)
	v.behind.SetMaxOpenConns(1)
}

func (v *tampered) close(t *testing.T) {
	t.Helper()
	must(t, v.behind.Close())
	must(t, v.platform.Close())
}

// verify returns what a verification finds, the platform's refusal to verify among it.
func (v *tampered) verify(t *testing.T) (found []string) {
	t.Helper()
	report, err := v.platform.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: v.platform.Checkers()})
	if err != nil {
		return []string{err.Error()}
	}
	for _, f := range report.Findings {
		found = append(found, f.String())
	}
	return found
}

type column struct{ table, name, kind string }

func (c column) String() string { return c.table + "." + c.name }

// columns lists every column of every table there is.
func (v *tampered) columns(t *testing.T) (all []column) {
	t.Helper()
	rows, err := v.behind.Query(`SELECT m.name, c.name, c.type FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid`)
	must(t, err)
	for rows.Next() {
		var c column
		must(t, rows.Scan(&c.table, &c.name, &c.kind))
		all = append(all, c)
	}
	must(t, rows.Err())
	must(t, rows.Close())
	if len(all) < 80 {
		t.Fatalf("only %d columns", len(all))
	}
	return all
}

// rowsEach is how many rows of a table are tried, from everywhere in it.
const rowsEach = 4

// change changes the value of c in some rows but the excused ones, each in turn and alone. It returns what was found of the first that nobody noticed, which is
// nothing, or else of the last. ok is false when there is no row.
func (v *tampered) change(t *testing.T, c column, excused string) (found []string, ok bool) {
	t.Helper()
	if excused == "" {
		excused = "1 = 0"
	}
	var count int
	must(t, v.behind.QueryRow(`SELECT COUNT(*) FROM `+c.table+` WHERE NOT (`+excused+`)`).Scan(&count))
	tried := min(count, rowsEach)
	for n := range tried {
		r := v.row(t, c.table, excused, n*count/tried)
		was := r.values[r.place(c.name)]
		changed := slices.ContainsFunc(others(was), func(to string) bool { return v.set(r, c.name, to) == nil }) // a unique index may refuse one
		if !changed {
			t.Fatalf("%s = %s cannot be changed", c, was)
		}
		found, ok = v.verify(t), true
		if err := v.set(r, c.name, was); err != nil || len(v.verify(t)) > 0 {
			v.renew(t) // the platform has put something in the place, or built on what was wrong
		}
		if len(found) == 0 {
			break
		}
	}
	return found, ok
}

// renew takes a fresh copy, where undoing the change is not enough.
func (v *tampered) renew(t *testing.T) {
	t.Helper()
	v.close(t)
	v.dir = copyOf(v.test, v.original)
	v.open(t)
	if left := v.verify(t); len(left) > 0 {
		t.Fatalf("a fresh copy: %v", left)
	}
}

// row is one row as it stands in the database, in SQL's own writing, which is exact.
type row struct {
	table  string
	names  []string
	values []string
}

func (v *tampered) row(t *testing.T, table, excused string, n int) *row {
	t.Helper()
	r := &row{table: table}
	for _, c := range v.columns(t) {
		if c.table == table {
			r.names = append(r.names, c.name)
		}
	}
	r.values = make([]string, len(r.names))
	into := make([]any, len(r.names))
	for i := range into {
		into[i] = &r.values[i]
	}
	must(t, v.behind.QueryRow(`SELECT quote("`+strings.Join(r.names, `"), quote("`)+`") FROM `+table+` WHERE NOT (`+excused+`) LIMIT 1 OFFSET ?`, n).Scan(into...))
	return r
}

func (r *row) place(name string) int { return slices.Index(r.names, name) }

// set changes one column of the row, which is found by all that it holds.
func (v *tampered) set(r *row, name, value string) error {
	var where []string
	for i, n := range r.names {
		where = append(where, `"`+n+`" IS `+r.values[i])
	}
	result, err := v.behind.Exec(`UPDATE ` + r.table + ` SET "` + name + `" = ` + value + ` WHERE ` + strings.Join(where, " AND "))
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("changing %s.%s changed %d rows: %w", r.table, name, n, err)
	}
	r.values[r.place(name)] = value
	return nil
}

// others returns values of the same type as the given one, in SQL's writing: the next number, a longer text, octets with one bit changed.
func others(value string) []string {
	switch {
	case strings.HasPrefix(value, "X'"), strings.HasPrefix(value, "x'"):
		octets, err := hex.DecodeString(value[2 : len(value)-1])
		if err != nil || len(octets) == 0 {
			return []string{"x'01'"}
		}
		octets[len(octets)/2] ^= 1
		return []string{"x'" + hex.EncodeToString(octets) + "'"}
	case strings.HasPrefix(value, "'"):
		return []string{value[:len(value)-1] + "x'"}
	}
	return []string{value + "+1", value + "+1000000"}
}
