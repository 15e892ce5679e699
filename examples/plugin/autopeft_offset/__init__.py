"""What is searched: data only, so that the command line does not wait for torch."""

from autopeft.search_spaces.method import Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import placed_on, site_dimension, sites_of, target_pattern


class Offset(Method):
    """Learn an offset of each output, times a constant."""

    name, title, family, paper = "offset", "Offset", "bias", "an example"
    saved_as, module_file, is_mergeable = "ours", "autopeft_offset.layers", True
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape):
        names = [site.site for site in shape.sites if site.has_bias]
        return (
            site_dimension(shape, names, default=names, help="Layers with an offset."),
            Dimension(name="scale", kind="ordinal", values=(1.0, 4.0), default=1.0, help="Factor."),
        )

    def num_parameters(self, shape, module):
        return sum(site.out_features * len(layers) for site, layers in placed_on(shape, module))

    def peft_config(self, shape, module):
        sites = target_pattern(shape, module.layers, sites_of(module))
        return {"peft_type": "OFFSET", "target_modules": sites, "scale": module["scale"]}
