package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	extensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	controllerruntime "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	managedIn = "go-manager"
	finalizer = "go.example.com/cleaned"
)

// A manager of controller-runtime with its cache, a controller, and webhooks that mutate, validate and convert; set up as
// by tests with envtest, over a cluster that is there.
func managed(ctx context.Context, config *rest.Config) {
	log.SetLogger(klog.Background())
	namespace(ctx, config, managedIn)
	scheme := runtime.NewScheme()
	check(clientscheme.AddToScheme(scheme))
	check(extensionsv1.AddToScheme(scheme))
	addWidgets(scheme)
	environment := environment(config, scheme)
	config = must(environment.Start())
	defer func() { check(environment.Stop()) }()
	manager := must(controllerruntime.NewManager(config, controllerruntime.Options{
		Scheme:         scheme,
		Cache:          cache.Options{DefaultNamespaces: map[string]cache.Config{managedIn: {}}},
		Metrics:        server.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: "widgets.go.example.com", LeaderElectionNamespace: managedIn,
		LeaderElectionReleaseOnCancel: true,
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: environment.WebhookInstallOptions.LocalServingHost, Port: environment.WebhookInstallOptions.LocalServingPort,
			CertDir: environment.WebhookInstallOptions.LocalServingCertDir,
		}),
	}))
	check(manager.GetFieldIndexer().IndexField(ctx, &Widget{}, "spec.color", func(object client.Object) []string {
		return []string{object.(*Widget).Spec.Color}
	}))
	check(controllerruntime.NewWebhookManagedBy(manager, &Widget{}).WithDefaulter(rules{}).WithValidator(rules{}).Complete())
	reconciler := &reconciler{client: manager.GetClient(), recorder: manager.GetEventRecorder("widgets")}
	check(controllerruntime.NewControllerManagedBy(manager).For(&Widget{}).Owns(&corev1.ConfigMap{}).Complete(reconciler))
	running, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- manager.Start(running) }()
	eventually(ctx, "the webhooks are served", func() bool { return manager.GetWebhookServer().StartedChecker()(nil) == nil })
	select {
	case <-manager.Elected():
	case err := <-ended:
		panic(err)
	}
	tell(ctx, manager.GetClient(), must(client.New(config, client.Options{Scheme: scheme})))
	stop()
	check(<-ended)
}

func environment(config *rest.Config, scheme *runtime.Scheme) *envtest.Environment {
	rule := admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
		Rule:       admissionv1.Rule{APIGroups: []string{widgetsV1.Group}, APIVersions: []string{"v1"}, Resources: []string{"widgets"}},
	}
	service := func(path string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "s", Namespace: managedIn, Path: &path}}
	}
	none, reviews := ptr.To(admissionv1.SideEffectClassNone), []string{"v1"}
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "widgets.go.example.com"}, Webhooks: []admissionv1.MutatingWebhook{{
		Name: "default.go.example.com", ClientConfig: service("mutate-go-example-com-v1-widget"), Rules: []admissionv1.RuleWithOperations{rule},
		SideEffects: none, AdmissionReviewVersions: reviews, TimeoutSeconds: ptr.To(int32(30)),
	}}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "widgets.go.example.com"}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "validate.go.example.com", ClientConfig: service("validate-go-example-com-v1-widget"), Rules: []admissionv1.RuleWithOperations{rule},
		SideEffects: none, AdmissionReviewVersions: reviews, TimeoutSeconds: ptr.To(int32(30)),
	}}}
	return &envtest.Environment{
		UseExistingCluster: ptr.To(true), Config: config, Scheme: scheme,
		CRDs:              []*extensionsv1.CustomResourceDefinition{definition()},
		CRDInstallOptions: envtest.CRDInstallOptions{CleanUpAfterUse: true, MaxTime: time.Minute},
		WebhookInstallOptions: envtest.WebhookInstallOptions{
			LocalServingHost:   "127.0.0.1",
			MutatingWebhooks:   []*admissionv1.MutatingWebhookConfiguration{mutating},
			ValidatingWebhooks: []*admissionv1.ValidatingWebhookConfiguration{validating},
			MaxTime:            time.Minute,
		},
	}
}

func definition() *extensionsv1.CustomResourceDefinition {
	type props = map[string]extensionsv1.JSONSchemaProps
	object := func(properties props, required ...string) extensionsv1.JSONSchemaProps {
		return extensionsv1.JSONSchemaProps{Type: "object", Properties: properties, Required: required}
	}
	text, number := extensionsv1.JSONSchemaProps{Type: "string"}, extensionsv1.JSONSchemaProps{Type: "integer", Format: "int64"}
	condition := object(props{"type": text, "status": text, "reason": text, "message": text, "lastTransitionTime": {Type: "string", Format: "date-time"}, "observedGeneration": number}, "type", "status")
	conditions := extensionsv1.JSONSchemaProps{Type: "array", Items: &extensionsv1.JSONSchemaPropsOrArray{Schema: &condition}, XListType: ptr.To("map"), XListMapKeys: []string{"type"}}
	version := func(name string, storage bool, spec extensionsv1.JSONSchemaProps) extensionsv1.CustomResourceDefinitionVersion {
		whole := object(props{"spec": spec, "status": object(props{"observedGeneration": number, "conditions": conditions})})
		return extensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: storage,
			Schema:       &extensionsv1.CustomResourceValidation{OpenAPIV3Schema: &whole},
			Subresources: &extensionsv1.CustomResourceSubresources{Status: &extensionsv1.CustomResourceSubresourceStatus{}},
		}
	}
	return &extensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.go.example.com"},
		Spec: extensionsv1.CustomResourceDefinitionSpec{
			Group: widgetsV1.Group, Scope: extensionsv1.NamespaceScoped,
			Names: extensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []extensionsv1.CustomResourceDefinitionVersion{
				version("v1", true, object(props{"size": number, "color": text}, "size")),
				version("v2", false, object(props{"dimensions": text, "color": text}, "dimensions")),
			},
		},
	}
}

// rules are what the webhooks say.
type rules struct{}

func (rules) Default(ctx context.Context, widget *Widget) error {
	request := must(admission.RequestFromContext(ctx))
	assert(request.UserInfo.Username != "" && request.Kind.Kind == "Widget", "%v", request)
	if widget.Spec.Color == "" {
		widget.Spec.Color = "blue"
	}
	return nil
}

func (rules) ValidateCreate(_ context.Context, widget *Widget) (admission.Warnings, error) {
	if widget.Spec.Size > 100 {
		return nil, fmt.Errorf("a size of %d is too large", widget.Spec.Size)
	}
	return admission.Warnings{"a widget is born"}, nil
}

func (r rules) ValidateUpdate(ctx context.Context, old, widget *Widget) (admission.Warnings, error) {
	if old.Spec.Color != widget.Spec.Color && old.Spec.Color != "" {
		return nil, fmt.Errorf("the color stays %s", old.Spec.Color)
	}
	return r.ValidateCreate(ctx, widget)
}

func (rules) ValidateDelete(_ context.Context, widget *Widget) (admission.Warnings, error) {
	if widget.Labels["kept"] != "" {
		return nil, fmt.Errorf("%s is kept", widget.Name)
	}
	return nil, nil
}

type reconciler struct {
	client   client.Client
	recorder events.EventRecorder
}

func (r *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	widget := &Widget{}
	if err := r.client.Get(ctx, request.NamespacedName, widget); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !widget.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, r.clean(ctx, widget)
	}
	if controllerutil.AddFinalizer(widget, finalizer) {
		return reconcile.Result{}, r.client.Update(ctx, widget)
	}
	child := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: widget.Name, Namespace: widget.Namespace}}
	result, err := controllerutil.CreateOrUpdate(ctx, r.client, child, func() error {
		child.Data = map[string]string{"size": strconv.FormatInt(widget.Spec.Size, 10)}
		return controllerutil.SetControllerReference(widget, child, r.client.Scheme())
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	if result != controllerutil.OperationResultNone {
		r.recorder.Eventf(widget, child, corev1.EventTypeNormal, "Made", "Reconcile", "the child was %s", result)
	}
	before := widget.DeepCopyObject().(*Widget)
	widget.Status.ObservedGeneration = widget.Generation
	meta.SetStatusCondition(&widget.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Made", ObservedGeneration: widget.Generation})
	return reconcile.Result{}, r.client.Status().Patch(ctx, widget, client.MergeFrom(before))
}

func (r *reconciler) clean(ctx context.Context, widget *Widget) error {
	cleaned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: widget.Name + "-was-cleaned", Namespace: widget.Namespace}}
	if err := client.IgnoreAlreadyExists(r.client.Create(ctx, cleaned)); err != nil {
		return err
	}
	before := widget.DeepCopyObject().(*Widget)
	if !controllerutil.RemoveFinalizer(widget, finalizer) {
		return nil
	}
	return client.IgnoreNotFound(r.client.Patch(ctx, widget, client.MergeFrom(before)))
}
