package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/agent/keyfile"
	"mooring/agent/v2x"
	"mooring/internal/base/errs"
	"mooring/wire/its"
)

const agentV2XHelp = `Be a vehicle or roadside station: gets an enrolment credential and keeps a stock of authorization tickets, the certificates by which stations
sign what they tell each other (TS 102 941, TS 103 097). Everything lies in the folder "v2x" of the agent, for its owner alone:

  station.json     whom the station believes, and how many tickets it wants
  credential.pem   the enrolment credential with its key
  tickets/         each ticket with its keys, named by its digest
  pending/         requests that have no answer yet
  butterfly.pem    the request for many tickets, with the keys that are expanded
  offer.json       that the authorities did not offer such tickets, and when they were asked
  lists/           trust lists and revocation lists, for when there is no network

It works with any authorities that speak TS 102 941. The tickets are made so that the authority that issues them does not learn whose they are.`

const agentV2XEnrolHelp = `Gets the enrolment credential, and makes the folder for it. Whom to believe says --root, the certificate of the root, with --dc, where its lists are; or
--manager, the certificate of a trust list manager, with --cpoc, where the manager's lists are.

The station is known by --name, its canonical identifier, and its canonical key: that in --key, or without --key the key of the certificate that this agent has
already ("mooring agent enrol"), so that a device that is enrolled needs no second secret.

Where the enrolment authority offers it, many tickets are asked for with one request, by butterfly keys (TS 102 941, 6.2.3.5): how many there are in a week, and for how many weeks
ahead, is then for the authority to say, and --stock and --ahead are for the time until the first of them are there, and for authorities that do not offer it. --butterfly says by which
expansion of keys; "compact" becomes "unified" where the authorization authority does not answer so, and "no" has each ticket asked for by itself. Tickets whose keys the enrolment
authority knows as well, by which it would recognise the vehicle, are not taken; then, too, each is asked for by itself. --butterfly-plain takes them.

Once there is a folder, what it says holds: to begin anew as another station, or to believe somebody else, remove the folder "v2x".

Then "mooring agent v2x run" fills the stock.`

const agentV2XRunHelp = `Keeps the stock of tickets filled until it is told to end (SIGTERM or Ctrl-C): fetches the lists, gets the tickets that are missing for this week and
those ahead, drops those that are over or whose authority was revoked, and renews the enrolment credential after two thirds of its life. Requests that were under way when it
was killed are sent again, and count once. Without a network it goes on with what there is. With --once it does what is due and ends, which takes a
minute and more for a new station: it pauses between requests (--pause of "mooring agent v2x enrol").

--before is a command for /bin/sh that is run before each request for a ticket. A vehicle changes its network addresses there, so that requests are not known as
those of one vehicle by them.`

const agentV2XStatusHelp = `Tells what credential and how many tickets the station has, and which of that is worth nothing since the authority that gave it was revoked. It asks nobody: what
it knows of revocations is from the lists as "mooring agent v2x run" fetched them last.`

const agentV2XSignHelp = `Signs the message in FILE with a ticket of the stock, and writes the signed message to --out, in octets. It is signed as a CAM, with the whole ticket, or with --at, the
place of an event, as a DENM. What FILE has in it is not looked at.`

const agentV2XHearHelp = `Judges a signed message as the station would that received it: whether its profile is kept, its ticket is believed and permits the application, and its time is
near. Prints who signed and what the message says.`

// v2xFlags are the flags of the commands of a station.
type v2xFlags struct {
	settings           v2x.Settings
	root, manager, key string
	butterfly          string
	once               bool
	before, out, at    string
	age                time.Duration
}

func (c *cli) agentV2XCommand(f *agentFlags) *cobra.Command {
	v := new(v2xFlags)
	enrol := &cobra.Command{Use: "enrol", Short: "Get the enrolment credential", Long: agentV2XEnrolHelp, Args: needs(),
		Example: "  mooring agent v2x enrol --root root.oer --dc http://dc.example.com --name car-7 --key canonical.pem\n  mooring agent v2x enrol --manager tlm.oer --cpoc http://cpoc.example.com --name car-7",
		RunE:    func(cmd *cobra.Command, _ []string) error { return v2xError(c.agentV2XEnrol(cmd, f, v)) }}
	flags := enrol.Flags()
	flags.SortFlags = false
	flags.StringVar(&v.root, "root", "", "certificate of the root to believe, or with --manager of the root that the station belongs to")
	flags.StringVar(&v.settings.DC, "dc", "", "address of the root's distribution centre")
	flags.StringVar(&v.manager, "manager", "", "certificate of the trust list manager to believe")
	flags.StringVar(&v.settings.CPOC, "cpoc", "", "address of the manager's lists")
	flags.StringVar(&v.settings.ID, "name", "", "canonical identifier: the name of this station, as it is registered")
	flags.StringVar(&v.key, "key", "", "file with the canonical key, PEM (default: the key of the agent's own certificate)")
	flags.IntVar(&v.settings.Stock, "stock", v2x.DefaultStock, "tickets for each week")
	flags.IntVar(&v.settings.Ahead, "ahead", v2x.DefaultAhead, "weeks to have tickets for besides the present one")
	flags.DurationVar(&v.settings.Pause, "pause", 2*time.Second, "pause between two requests for tickets, on average")
	flags.StringVar(&v.butterfly, "butterfly", string(v2x.ButterflyOriginal), "expansion of keys for many tickets with one request: original, unified or compact; no: none")
	flags.BoolVar(&v.settings.Plain, "butterfly-plain", false, "take such tickets also if the enrolment authority knows their keys")
	flags.BoolVar(&v.settings.Open, "no-privacy", false, "do not hide the station from who issues tickets: it is one at the roadside")
	run := &cobra.Command{Use: "run", Short: "Keep the stock of tickets filled (daemon)", Long: agentV2XRunHelp, Args: needs(), Example: "  mooring agent v2x run\n  mooring agent v2x run --once",
		RunE: func(cmd *cobra.Command, _ []string) error { return v2xError(c.agentV2XRun(cmd.Context(), f, v)) }}
	run.Flags().BoolVar(&v.once, "once", false, "do what is due, and end")
	run.Flags().StringVar(&v.before, "before", "", "command for /bin/sh before each request for a ticket")
	status := &cobra.Command{Use: "status", Short: "Tell what tickets this station has", Long: agentV2XStatusHelp, Args: needs(), Example: "  mooring agent v2x status --json",
		RunE: func(cmd *cobra.Command, _ []string) error { return v2xError(c.agentV2XStatus(cmd.Context(), f)) }}
	sign := &cobra.Command{Use: "sign FILE", Short: "Sign a message with a ticket", Long: agentV2XSignHelp, Args: needs("FILE"), Example: "  mooring agent v2x sign cam.uper --out cam.oer\n  mooring agent v2x sign denm.uper --at 48.1372,11.5756 --out denm.oer",
		RunE: func(cmd *cobra.Command, args []string) error {
			return v2xError(c.agentV2XSign(cmd.Context(), f, v, args[0]))
		}}
	sign.Flags().StringVar(&v.out, "out", "", "file to write the signed message to")
	sign.Flags().StringVar(&v.at, "at", "", "place of the event, latitude and longitude in degrees: makes it a DENM")
	hear := &cobra.Command{Use: "hear FILE", Short: "Judge a message of another station", Long: agentV2XHearHelp, Args: needs("FILE"), Example: "  mooring agent v2x hear cam.oer\n  mooring agent v2x hear cam.oer --age 1h",
		RunE: func(cmd *cobra.Command, args []string) error {
			return v2xError(c.agentV2XHear(cmd.Context(), f, v, args[0]))
		}}
	hear.Flags().DurationVar(&v.age, "age", 0, "how old it may be (default 2s, of a DENM 10m)")
	return group(&cobra.Command{Use: "v2x", Short: "Be a vehicle: keep tickets, sign messages", Long: agentV2XHelp,
		Example: "  mooring agent v2x enrol --root root.oer --dc http://dc.example.com --name car-7\n  mooring agent v2x run"}, enrol, run, status, sign, hear)
}

func (f *agentFlags) v2xDir() string { return filepath.Join(f.dir, "v2x") }

// v2xError gives errors of a station their kinds.
func v2xError(err error) error {
	var refused *v2x.Refused
	var status *v2x.StatusError
	var kind errs.Kind
	switch {
	case errors.As(err, &refused):
		kind = errs.Denied
	case errors.As(err, &status), errors.Is(err, v2x.ErrAuthorityRevoked):
		kind = errs.Unavailable
	case errors.Is(err, v2x.ErrNotEnrolled), errors.Is(err, v2x.ErrNoTicket):
		kind = errs.NotFound
	case errors.Is(err, v2x.ErrBusy):
		kind = errs.Conflict
	case errors.Is(err, v2x.ErrOld), errors.Is(err, v2x.ErrProfile), errors.Is(err, v2x.ErrPermission), errors.Is(err, v2x.ErrUnknownIssuer), errors.Is(err, v2x.ErrUnknownSigner):
		kind = errs.Invalid
	default:
		return err
	}
	return errs.New(kind, "%v", err)
}

func (c *cli) agentV2XEnrol(cmd *cobra.Command, f *agentFlags, v *v2xFlags) (err error) {
	keyPath := v.key
	if keyPath == "" {
		keyPath = filepath.Join(f.dir, "current", keyfile.Name)
	}
	key, err := keyfile.Read(keyPath)
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "the canonical key cannot be read: name it with --key, or enrol the device first (mooring agent enrol)")
	}
	s, err := v2x.OpenStation(f.v2xDir(), v2x.StationOptions{Now: time.Now})
	existed := !errors.Is(err, fs.ErrNotExist)
	if !existed {
		s, err = c.makeStation(f, v)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	if existed {
		if err := v.sameAs(s, cmd.Flags().Changed, f.v2xDir()); err != nil {
			return err
		}
	}
	if err := s.Enrol(cmd.Context(), key); err != nil {
		var refused *v2x.Refused
		if errors.As(err, &refused) {
			c.advise("%s", enrolmentAdvice(refused.Code))
		}
		return err
	}
	return c.showStation(s)
}

// sameAs refuses flags that say something else than the folder of a station, which holds. Whom an enrolled station believes may have changed since: it followed.
func (v *v2xFlags) sameAs(s *v2x.Station, given func(flag string) bool, dir string) error {
	if s.Credential() == nil {
		if err := v.readCertificates(); err != nil {
			return err
		}
		if given("root") && !bytes.Equal(v.settings.Root, s.Root) || given("manager") && !bytes.Equal(v.settings.Manager, s.Manager) {
			return errs.New(errs.Conflict, "%s is the folder of the station %q already, with another --root or --manager: remove it to begin anew", dir, s.ID)
		}
	}
	for _, f := range []struct {
		name         string
		wanted, held any
	}{
		{"name", v.settings.ID, s.ID}, {"dc", v.settings.DC, s.DC}, {"cpoc", v.settings.CPOC, s.CPOC},
		{"stock", v.settings.Stock, s.Stock}, {"ahead", v.settings.Ahead, s.Ahead}, {"pause", v.settings.Pause, s.Pause},
		{"butterfly", v2x.ByButterfly(v.butterfly), s.Butterfly}, {"butterfly-plain", v.settings.Plain, s.Plain}, {"no-privacy", v.settings.Open, s.Open},
	} {
		if given(f.name) && f.wanted != f.held {
			return errs.New(errs.Conflict, "%s is the folder of the station %q already, with --%s %v: remove it to begin anew with %v", dir, s.ID, f.name, f.held, f.wanted)
		}
	}
	return nil
}

// enrolmentAdvice says what to do about a refusal of an enrolment authority, which says nothing but the code (TS 102 941, annex A.2).
func enrolmentAdvice(code string) string {
	switch code {
	case "unknownits":
		return "The authority knows no vehicle of this name. With Mooring that is a device of the registry, of the same name and with the tag v2x: mooring device change NAME --tag v2x=vehicle"
	case "invalidsignature":
		return "The key is not the one by which the authority knows the vehicle: that of its certificate (mooring agent enrol), or that of its tag v2x-key."
	case "baditsstatus":
		return "The authority has stopped the vehicle: its device is suspended, retired or lost, or the credential that asks was revoked (mooring device show NAME, mooring v2x ea station NAME)."
	case "deniedrequest":
		return "The clock of the vehicle is off, or it got many credentials today already."
	}
	return "What each code means says doc/v2x.md. The authority has the refusal in its record: mooring audit list --newest"
}

// revokedAdvice says what to do where the enrolment authority of a credential was revoked.
const revokedAdvice = "The credential is worth nothing until another enrolment authority is on the trust list, which is for the operators of the authorities to see to. Then\n" +
	"mooring agent v2x run renews it by itself; if that is refused, mooring agent v2x enrol gets another one by the canonical key."

// ticketAdvice is enrolmentAdvice for tickets.
func ticketAdvice(code string) string {
	switch code {
	case "deniedpermissions":
		return "The vehicle gets no such ticket: its device is suspended, retired or lost, its credential was revoked, or it asks for more than the tags v2x-cam and v2x-denm of its device permit (mooring device show NAME, mooring v2x ea station NAME)."
	case "deniedtoomanycerts":
		return "The vehicle has as many tickets for that time as one may have (v2x.tickets)."
	}
	return enrolmentAdvice(code)
}

// makeStation makes the folder, from the flags.
func (c *cli) makeStation(f *agentFlags, v *v2xFlags) (*v2x.Station, error) {
	if v.settings.ID == "" || (v.root == "" || v.settings.DC == "") && (v.manager == "" || v.settings.CPOC == "") {
		return nil, usagef("the first time, enrol needs --name, and --root with --dc or --manager with --cpoc")
	}
	switch v.settings.Butterfly = v2x.ByButterfly(v.butterfly); v.settings.Butterfly {
	case v2x.ButterflyOriginal, v2x.ButterflyUnified, v2x.ButterflyCompact, v2x.ButterflyNo:
	default:
		return nil, usagef("--butterfly: %q is none of original, unified, compact and no", v.butterfly)
	}
	if err := v.readCertificates(); err != nil {
		return nil, err
	}
	return v2x.MakeStation(f.v2xDir(), v.settings, v2x.StationOptions{Now: time.Now})
}

// readCertificates reads the files that say whom to believe.
func (v *v2xFlags) readCertificates() (err error) {
	for _, file := range []struct {
		path string
		into *[]byte
	}{{v.root, &v.settings.Root}, {v.manager, &v.settings.Manager}} {
		if file.path != "" {
			if *file.into, err = readOctets(file.path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cli) agentV2XRun(ctx context.Context, f *agentFlags, v *v2xFlags) error {
	o := v2x.StationOptions{Now: time.Now}
	if v.before != "" {
		o.Before = func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, execTime)
			defer cancel()
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", v.before)
			cmd.WaitDelay = 5 * time.Second
			ownGroup(cmd)
			cmd.Stdout, cmd.Stderr = c.err, c.err
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("running %q: %w", v.before, err)
			}
			return nil
		}
	}
	s, err := v2x.OpenStation(f.v2xDir(), o)
	if err != nil {
		return noStation(err)
	}
	defer s.Close()
	if v.once {
		if _, err := s.Keep(ctx); err != nil {
			var refused *v2x.Refused
			switch {
			case errors.Is(err, v2x.ErrAuthorityRevoked):
				c.advise("%s", revokedAdvice)
			case errors.As(err, &refused):
				c.advise("%s", ticketAdvice(refused.Code))
			}
			return err
		}
		return c.showStation(s)
	}
	log := slog.New(slog.NewTextHandler(c.err, nil))
	if c.json {
		log = slog.New(slog.NewJSONHandler(c.err, nil))
	}
	return s.Run(ctx, log)
}

// noStation says how to make one.
func noStation(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.NotFound, "there is no station here yet: mooring agent v2x enrol makes one")
	}
	return err
}

// look opens the folder without disturbing who keeps it, with the lists as they were fetched last.
func (f *agentFlags) look(ctx context.Context) (*v2x.Station, error) {
	s, err := v2x.OpenStation(f.v2xDir(), v2x.StationOptions{Now: time.Now, Reads: true})
	if err == nil {
		s.Recall(ctx)
	}
	return s, noStation(err)
}

func (c *cli) agentV2XStatus(ctx context.Context, f *agentFlags) error {
	s, err := f.look(ctx)
	if err != nil {
		return err
	}
	return c.showStation(s)
}

// stationStatus is a station as it is shown.
type stationStatus struct {
	ID         string    `json:"id"`
	Credential string    `json:"credential,omitempty"`
	Until      time.Time `json:"until,omitzero"`
	Now        int       `json:"tickets_now"`
	Later      int       `json:"tickets_later"`
	Last       time.Time `json:"last_ticket_until,omitzero"`
	// Revoked says that the authority that gave the credential was revoked; Useless is how many tickets are worth nothing, by the authority that issued them.
	Revoked bool           `json:"credential_authority_revoked,omitempty"`
	Useless map[string]int `json:"tickets_useless,omitempty"`
	// Butterfly is the expansion of keys by which many tickets are asked for with one request, "no" if each is asked for by itself, for the reason that is given.
	Butterfly string    `json:"butterfly"`
	Next      time.Time `json:"next_tickets_by,omitzero"`
	Reason    string    `json:"why_one_by_one,omitempty"`
}

func (c *cli) showStation(s *v2x.Station) error {
	from := s.Source()
	st := stationStatus{ID: s.ID, Butterfly: string(from.Butterfly), Next: from.Next, Reason: from.Reason, Revoked: s.CredentialRevoked(), Useless: map[string]int{}}
	for aa, n := range s.Useless() {
		st.Useless[aa.String()] = n
	}
	source := "one by one: " + st.Reason
	if from.Butterfly != v2x.ButterflyNo {
		source = fmt.Sprintf("by butterfly keys (%s), the next ones by %s", st.Butterfly, minute(st.Next))
	}
	if has := s.Credential(); has != nil {
		id, err := has.Certificate.HashedId8()
		if err != nil {
			return err
		}
		st.Credential, st.Until = id.String(), has.Certificate.ToBeSigned.ValidityPeriod.End().Time(its.LeapSeconds)
	}
	for _, t := range s.Tickets() {
		v := t.Certificate.ToBeSigned.ValidityPeriod
		if st.Last = v.End().Time(its.LeapSeconds); v.Contains(its.TimeAt(time.Now(), its.LeapSeconds)) {
			st.Now++
		} else {
			st.Later++
		}
	}
	return c.show(st, func(w io.Writer) {
		fact(w, "Station", st.ID)
		fact(w, "Credential", st.Credential)
		fact(w, "Until", minute(st.Until))
		if st.Revoked {
			fact(w, "It is of no use", "the authority that gave it was revoked; mooring agent v2x run renews it when there is another one, or mooring agent v2x enrol gets one by the canonical key")
		}
		fact(w, "Tickets", fmt.Sprintf("%d valid now, %d for later", st.Now, st.Later))
		for _, aa := range slices.Sorted(maps.Keys(st.Useless)) {
			fact(w, "Of no use", fmt.Sprintf("%d more of %s, which was revoked or is on no trust list any more: mooring agent v2x run gets others", st.Useless[aa], aa))
		}
		fact(w, "Stock until", minute(st.Last))
		fact(w, "They come", source)
	})
}

func (c *cli) agentV2XSign(ctx context.Context, f *agentFlags, v *v2xFlags, path string) error {
	if v.out == "" {
		return usagef("sign needs --out: the file to write the signed message to")
	}
	payload, err := readFile(path)
	if err != nil {
		return err
	}
	s, err := f.look(ctx)
	if err != nil {
		return err
	}
	talk := v2x.NewTalk(v2x.TalkOptions{Client: s.Client, Changer: v2x.NewChanger(s, v2x.Habit{NeverChanges: true}, time.Now, 0)})
	var signed []byte
	if v.at == "" {
		signed, err = talk.CAM(payload)
	} else {
		var place its.ThreeDLocation
		if place, err = placeOf(v.at); err == nil {
			e := talk.Event()
			signed, err = e.DENM(payload, place)
			e.End()
		}
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(v.out, signed, 0o644); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the signed message cannot be written to %s", v.out)
	}
	return c.show(map[string]any{"file": v.out, "octets": len(signed)}, func(w io.Writer) {
		fact(w, "Written", fmt.Sprintf("%s, %d octets", v.out, len(signed)))
	})
}

// noElevation is that the elevation is not known (IEEE 1609.2, 6.3.12).
const noElevation = 0xf000

// placeOf reads latitude and longitude in degrees.
func placeOf(text string) (l its.ThreeDLocation, err error) {
	north, east, ok := strings.Cut(text, ",")
	a, err1 := strconv.ParseFloat(strings.TrimSpace(north), 64)
	b, err2 := strconv.ParseFloat(strings.TrimSpace(east), 64)
	if !ok || err1 != nil || err2 != nil || !(a >= -90 && a <= 90 && b >= -180 && b <= 180) {
		return l, usagef("--at: %q is not a latitude and a longitude in degrees, such as 48.1372,11.5756", text)
	}
	l.Latitude, l.Longitude, l.Elevation = its.Latitude(a*1e7), its.Longitude(b*1e7), noElevation
	return l, nil
}

func (c *cli) agentV2XHear(ctx context.Context, f *agentFlags, v *v2xFlags, path string) error {
	message, err := readOctets(path)
	if err != nil {
		return err
	}
	s, err := f.look(ctx)
	if err != nil {
		return err
	}
	if err := s.Update(ctx); err != nil && !errors.Is(err, v2x.ErrPartly) {
		return err
	}
	heard, err := v2x.NewTalk(v2x.TalkOptions{Client: s.Client, AgeCAM: v.age, AgeDENM: v.age}).Hear(message)
	if err != nil {
		return err
	}
	shown := map[string]any{"application": heard.Psid, "signer": heard.Signer.String(), "permissions": fmt.Sprintf("%x", heard.Ssp),
		"made": heard.Made.Time(its.LeapSeconds), "payload": fmt.Sprintf("%x", heard.Payload)}
	var where string
	if place, ok := heard.Place.Get(); ok {
		where = fmt.Sprintf("%.7f,%.7f", float64(place.Latitude)/1e7, float64(place.Longitude)/1e7)
		shown["place"] = where
	}
	return c.show(shown, func(w io.Writer) {
		fact(w, "Application", heard.Psid.String())
		fact(w, "Signer", heard.Signer.String())
		fact(w, "Permissions", fmt.Sprintf("%x", heard.Ssp))
		fact(w, "Made", heard.Made.Time(its.LeapSeconds).Format(time.RFC3339Nano))
		fact(w, "Place", where)
		fact(w, "Payload", fmt.Sprintf("%x", heard.Payload))
	})
}
